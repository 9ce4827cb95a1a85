"""Predictions for pictures and videos, as data and drawn."""

import glob
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple, Optional, Union

import mmcv
import mmengine
import numpy as np
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmctx.checkpoints import use_safe_reader

from . import cli

VIDEOS = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v')
PICTURES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp')
WEBCAM = 'webcam'
TOP = 5

Inputs = Union[str, Path, np.ndarray, Sequence]


class Frame(NamedTuple):
    """A picture, or one of a video.

    Attributes:
        source (str): Where it is from.
        image (np.ndarray): (H, W, 3), 8 bits, blue first; turned as EXIF says.
        index (int, optional): Its place in a video.
        rate (float, optional): Frames per second of the video.
    """

    source: str
    image: np.ndarray
    index: Optional[int] = None
    rate: Optional[float] = None


def read_frames(inputs: Inputs) -> Iterator[Frame]:
    """Read pictures one by one, so that a video of any length fits.

    Args:
        inputs (str, Path, np.ndarray or Sequence): A picture's file or
            address, a folder, a pattern such as ``'*.jpg'``, a video,
            'webcam' or 'webcam:1', an array as in :class:`Frame`, or several.

    Raises:
        UserError: There is no such file, or it is not a picture.
    """
    several = isinstance(inputs, (list, tuple))
    for number, item in enumerate(inputs if several else [inputs]):
        if isinstance(item, np.ndarray):
            yield Frame(f'{number:06}', item)
            continue
        item = str(item)
        if item.partition(':')[0] == WEBCAM or item.lower().endswith(VIDEOS):
            yield from _read_video(item)
            continue
        for path in _paths(item):
            yield Frame(path, _read_picture(path))


def _paths(item: str) -> list[str]:
    if '://' in item:
        return [item]
    path = Path(item)
    if path.is_dir():
        names = [p for p in path.iterdir() if p.suffix.lower() in PICTURES]
        if not names:
            raise cli.UserError(
                f'there are no pictures ({", ".join(PICTURES)}) in {item}'
            )
        return [str(p) for p in sorted(names)]
    if path.exists():
        return [item]
    return sorted(glob.glob(item)) or [cli.existing_file(item, 'input')]


def _read_picture(path: str) -> np.ndarray:
    try:
        image = mmcv.imfrombytes(mmengine.fileio.get(path))
    except Exception as error:
        raise cli.UserError(
            f'cannot read {path}: {cli.describe(error)}'
        ) from error
    if image is None:
        raise cli.UserError(f'{path} is not a picture that OpenCV reads')
    return image


def _read_video(item: str) -> Iterator[Frame]:
    import cv2

    kind, _, number = item.partition(':')
    if kind == WEBCAM:
        video = cv2.VideoCapture(int(number or 0))
    else:
        video = cv2.VideoCapture(cli.existing_file(item, 'input'))
    rate = video.get(cv2.CAP_PROP_FPS) or 25.0
    try:
        for index in count():
            read, image = video.read()
            if not read:
                break
            yield Frame(item, image, index, rate)
    finally:
        video.release()
    if not index:
        raise cli.UserError(f'{item} gives no picture: it cannot be opened')


class Inferencer:
    """A trained model, run on pictures.

    It takes the OpenMMLab library's own inferencer for the pipeline, the model
    and the drawing, and checkpoints through the safe reader of mmctx.

    Args:
        config (str or Config): A file, a name of :func:`mmctx.list_configs`,
            or a config.
        checkpoint (str, optional): A file, an address, or 'mmctx://' and a
            model's name. Defaults to random weights.
        device (str, optional): Defaults to the GPU, if there is one.

    Raises:
        UserError: A file does not exist, or does not fit.

    Example:
        >>> model = mmctx.Inferencer('mine.py', 'work_dirs/mine/epoch_12.pth')
        >>> for prediction in model(['a.jpg', 'photos/'], out_dir='out'):
        ...     print(prediction['file'], prediction['classes'])
    """

    def __init__(
        self,
        config: Union[str, Config],
        checkpoint: Optional[str] = None,
        device: Optional[str] = None,
    ) -> None:
        if not isinstance(config, Config):
            config = cli.load_config(str(config))
        if checkpoint is not None:
            checkpoint = cli.existing_checkpoint(str(checkpoint))
        cli.require(config, config.filename, ('model', 'test_dataloader'))
        self.scope = config.get('default_scope')
        init_default_scope(self.scope or 'mmengine')
        use_safe_reader()
        self.inferencer = self._open(config, checkpoint, device)
        self.classes = self._class_names(config)

    def _open(
        self, config: Config, checkpoint: Optional[str], device: Optional[str]
    ) -> Any:
        if self.scope == 'mmpretrain':
            from mmpretrain import ImageClassificationInferencer

            return ImageClassificationInferencer(
                config, checkpoint or False, device=device
            )
        if self.scope == 'mmdet':
            from mmdet.apis import DetInferencer as Library
        elif self.scope == 'mmseg':
            from mmseg.apis import MMSegInferencer as Library
        else:
            raise cli.UserError(
                f'{config.filename} has default_scope {self.scope!r}; models '
                'of mmpretrain, mmdet and mmseg can be run on pictures'
            )
        return Library(config, checkpoint, device=device, show_progress=False)

    def _class_names(self, config: Config) -> Optional[Sequence[str]]:
        if self.scope != 'mmpretrain':
            return self.inferencer.model.dataset_meta['classes']
        return self.inferencer.classes or config.test_dataloader.dataset.get(
            'metainfo', {}
        ).get('classes')

    def __call__(
        self,
        inputs: Inputs,
        batch_size: int = 1,
        out_dir: Optional[str] = None,
        score_thr: float = 0.3,
    ) -> Iterator[dict]:
        """Predict, frame by frame, as the results are asked for.

        Args:
            inputs (str, Path, np.ndarray or Sequence): As of
                :func:`read_frames`.
            batch_size (int): Pictures at a time; sizes may differ. Defaults to
                1.
            out_dir (str, optional): Folder for drawn pictures and videos.
                Defaults to None: nothing is drawn.
            score_thr (float): Least score of a box that is drawn or returned.
                Defaults to 0.3.

        Yields:
            dict: ``file``, of a video also ``frame``, and ``classes`` with
            ``scores`` (classification, the best 5), ``boxes`` (x1, y1, x2, y2
            in pixels), ``classes``, ``scores`` and ``masks`` (run-length
            encoded, of instance segmentation), or ``shares``, of the picture's
            pixels by class (semantic segmentation).
        """
        frames = read_frames(inputs)
        with ExitStack() as stack:
            output = None
            if out_dir is not None:
                output = stack.enter_context(_Output(Path(out_dir)))
            while batch := list(islice(frames, batch_size)):
                samples = self._predict([frame.image for frame in batch])
                for frame, sample in zip(batch, samples):
                    if output is not None:
                        image = self._draw(frame.image, sample, score_thr)
                        output.write(frame, image)
                    yield self._as_dict(frame, sample, score_thr)

    def _predict(self, images: list[np.ndarray]) -> list:
        """Data samples of the library."""
        if self.scope != 'mmdet' and len({x.shape for x in images}) > 1:
            # mmdet pads; the others only stack.
            return [s for image in images for s in self._predict([image])]
        (batch,) = self.inferencer.preprocess(images, batch_size=len(images))
        if self.scope == 'mmdet':  # beside the pictures
            batch = batch[1]
        return self.inferencer.forward(batch)

    def _draw(
        self, image: np.ndarray, sample: Any, score_thr: float
    ) -> np.ndarray:
        image = np.ascontiguousarray(image[..., ::-1])
        if self.scope == 'mmpretrain':
            from mmpretrain.visualization import UniversalVisualizer

            draw = UniversalVisualizer()
            draw.visualize_cls(
                image, sample, classes=self.classes, draw_gt=False
            )
        else:
            draw = self.inferencer.visualizer
            options = {}
            if self.scope == 'mmdet':
                options['pred_score_thr'] = score_thr
            draw.add_datasample('', image, sample, draw_gt=False, **options)
        return draw.get_image()[..., ::-1]

    def _name(self, label: int) -> str:
        return str(label) if self.classes is None else self.classes[label]

    def _as_dict(self, frame: Frame, sample: Any, score_thr: float) -> dict:
        result: dict[str, Any] = dict(file=frame.source)
        if frame.index is not None:
            result['frame'] = frame.index
        if self.scope == 'mmpretrain':
            scores, labels = sample.pred_score.sort(descending=True)
            result['classes'] = [self._name(i) for i in labels[:TOP].tolist()]
            result['scores'] = scores[:TOP].tolist()
        elif self.scope == 'mmseg':
            labels = sample.pred_sem_seg.data.flatten().cpu()
            shares = labels.bincount() / len(labels)
            result['shares'] = {
                self._name(i): share
                for i, share in enumerate(shares.tolist())
                if share
            }
        else:
            found = sample.pred_instances
            found = found[found.scores >= score_thr].cpu().numpy()
            result['boxes'] = found.bboxes.tolist()
            result['classes'] = [self._name(i) for i in found.labels]
            result['scores'] = found.scores.tolist()
            if 'masks' in found:
                result['masks'] = _encode(found.masks)
        return result


def _encode(masks: np.ndarray) -> list[dict]:
    """COCO's run-length code, as JSON can hold it."""
    from mmdet.structures.mask import encode_mask_results

    codes = encode_mask_results(masks)
    return [{**c, 'counts': c['counts'].decode()} for c in codes]


class _Output:
    """A folder of drawn pictures and videos; none replaces another."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: set[str] = set()
        self.video: Any = None
        self.source = ''

    def __enter__(self) -> '_Output':
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *error: Any) -> None:
        if self.video is not None:
            self.video.release()

    def write(self, frame: Frame, image: np.ndarray) -> None:
        if frame.index is None:
            path = self._new_path(frame.source, Path(frame.source).suffix)
            mmcv.imwrite(image, path)
            return
        if frame.index == 0:
            self._start_video(frame)
        self.video.write(np.ascontiguousarray(image))

    def _start_video(self, frame: Frame) -> None:
        import cv2

        self.__exit__()
        self.video = cv2.VideoWriter(
            self._new_path(frame.source.replace(':', '-'), '.mp4'),
            cv2.VideoWriter_fourcc(*'mp4v'),
            frame.rate,
            frame.image.shape[1::-1],
        )

    def _new_path(self, source: str, suffix: str) -> str:
        suffix = suffix if suffix in (*PICTURES, '.mp4') else '.png'
        stem = Path(source).stem
        names = (f'{stem}{f"-{i}" if i else ""}{suffix}' for i in count())
        name = next(name for name in names if name not in self.names)
        self.names.add(name)
        return str(self.folder / name)
