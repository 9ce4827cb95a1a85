"""DigitScenes: real handwritten digits in cluttered scenes.

The digits are the 1,797 scans of 8 x 8 pixels that scikit-learn ships
(``sklearn.datasets.load_digits``). A fifth of them, drawn per class, is held
out: validation pictures show no scan that a training picture shows.
Three parts are made from them, each readable by stock dataset classes:

``scenes``
    pictures with a few digits that may overlap::

        train/000000.png ...  val/...         RGB pictures
        annotations/instances_train.json ...  COCO boxes and visible masks
        semantic/train/000000.png ...         0 background, 1 + d for digit d

``classification``
    pictures with one digit each, ``train/0/00000.png`` ... ``val/9/...``

Every picture has its own random generator, seeded with the seed, the part, the
split and its index, so equal parameters give equal files.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import cv2
import numpy as np
from mmengine.utils import track_iter_progress

from .made_once import make_once

__all__ = ['PARTS', 'Classification', 'Scenes', 'make_digit_scenes']

_VERSION = 3  # increase when equal parameters would give new pictures
_CLASSES = tuple('0123456789')
_SPLITS = ('train', 'val')
_HELD_OUT = 5  # one scan in this many of each class
_MIN_VISIBLE = 0.85  # fraction of a digit that later ones leave visible
_TRIES = 20
# Brightness of each channel, of 255. Digits are lighter than what is behind
# them, so that a small network learns them in minutes.
_BACKGROUND = (20, 110)
_CLUTTER = (20, 170)
_DIGIT = (110, 255)


def make_digit_scenes(
    data_root: str, part: str, overwrite: bool = False, **parameters
) -> Path:
    """Make a part of DigitScenes, unless it exists already.

    Args:
        data_root (str): Directory of the data set, in which each part has a
            subdirectory of its name.
        part (str): 'scenes', 'classification' or 'centered'.
        overwrite (bool): Recreate the part if it exists.
        **parameters: Fields of :class:`Scenes` or, for other parts, of
            :class:`Classification`.

    Returns:
        Path: The part's directory.

    Raises:
        ImportError: scikit-learn is not installed.
        ValueError: Unknown part or parameter, or a value out of range, or
            the part exists and was made with other parameters.
        FileExistsError: Something else has the name of the directory.
        OSError: The directory cannot be written.
    """
    if part not in PARTS:
        raise ValueError(
            f'part={part!r} of DigitScenes is unknown; choose one of '
            f'{sorted(PARTS)}.'
        )
    known = [field.name for field in dataclasses.fields(PARTS[part])]
    unknown = sorted(set(parameters) - set(known))
    if unknown:
        raise ValueError(
            f'The part {part!r} of DigitScenes has no parameter '
            f'{", ".join(unknown)}; it has {", ".join(known)}.'
        )
    maker = PARTS[part](**parameters)
    target = Path(data_root) / part
    manifest = dict(
        data='DigitScenes',
        version=_VERSION,
        part=part,
        **dataclasses.asdict(maker),
    )
    make_once(target, manifest, maker.write, overwrite)
    return target


@dataclass(frozen=True)
class Scenes:
    """Pictures with several digits, for detection and segmentation.

    Args:
        train (int): Number of training scenes.
        val (int): Number of validation scenes.
        size (int): Height and width in pixels.
        min_digits (int): Fewest digits in a scene.
        max_digits (int): Most digits in a scene.
        seed (int): Seed of all random choices except the split of the scans.
    """

    train: int = 1200
    val: int = 200
    size: int = 128
    min_digits: int = 2
    max_digits: int = 5
    seed: int = 0

    def __post_init__(self):
        _check_at_least(self, train=1, val=1, size=32, min_digits=1, seed=0)
        _check_at_least(self, max_digits=self.min_digits)
        if self.max_digits > 8:
            raise ValueError(
                f'max_digits={self.max_digits}: a scene has room for at most '
                '8 digits.'
            )

    def write(self, directory: Path) -> None:
        """Draw all scenes and write them with their labels."""
        (directory / 'annotations').mkdir()
        for split in _SPLITS:
            (directory / split).mkdir()
            (directory / 'semantic' / split).mkdir(parents=True)
            self._write_split(directory, split)

    def _write_split(self, directory: Path, split: str) -> None:
        scans, labels = _load_scans(split)
        images, annotations = [], []
        count = getattr(self, split)
        print(f'DigitScenes: drawing {count} {split} scenes', flush=True)
        for index in track_iter_progress(range(count)):
            rng = np.random.default_rng(
                [self.seed, 0, _SPLITS.index(split), index]
            )
            image, masks, digits = self._draw(rng, scans, labels)
            name = f'{index:06d}.png'
            _write_png(directory / split / name, image)
            _write_png(
                directory / 'semantic' / split / name,
                _semantic_map(masks, digits),
            )
            images.append(
                dict(
                    id=index,
                    file_name=name,
                    height=self.size,
                    width=self.size,
                )
            )
            for mask, digit in zip(masks, digits):
                annotations.append(
                    dict(
                        id=len(annotations) + 1,
                        image_id=index,
                        **_coco_annotation(mask, digit),
                    )
                )
        print()
        coco = dict(
            images=images,
            annotations=annotations,
            categories=[
                dict(id=i, name=name) for i, name in enumerate(_CLASSES)
            ],
        )
        path = directory / 'annotations' / f'instances_{split}.json'
        path.write_text(json.dumps(coco))

    def _draw(self, rng, scans, labels):
        """One scene: image (H, W, 3), visible masks (n, H, W), n digits."""
        image = _canvas(rng, self.size)
        _add_clutter(rng, image, scans, count=rng.integers(4, 9))
        masks, areas, digits = [], [], []

        def fits(opacity):
            return all(
                (mask & (opacity < 0.5)).sum() >= _MIN_VISIBLE * area
                for mask, area in zip(masks, areas)
            )

        for _ in range(rng.integers(self.min_digits, self.max_digits + 1)):
            index = rng.integers(len(scans))
            opacity = _place(rng, scans[index], self.size, (0.22, 0.42), fits)
            if opacity is None:  # no room left
                break
            _paint(rng, image, opacity, _DIGIT, contrast=45)
            masks = [mask & (opacity < 0.5) for mask in masks]
            masks.append(opacity >= 0.5)
            areas.append(masks[-1].sum())
            digits.append(int(labels[index]))
        if len(masks) < self.min_digits:
            return self._draw(rng, scans, labels)
        return _noisy(rng, image), np.stack(masks), digits


@dataclass(frozen=True)
class Classification:
    """Pictures with one digit each, in one folder per class.

    Args:
        train (int): Number of training pictures.
        val (int): Number of validation pictures.
        size (int): Height and width in pixels.
        seed (int): Seed of all random choices except the split of the scans.
    """

    train: int = 3000
    val: int = 700
    size: int = 64
    seed: int = 0

    def __post_init__(self):
        _check_at_least(self, train=10, val=10, size=32, seed=0)

    def write(self, directory: Path) -> None:
        """Draw all pictures and write them into their classes' folders."""
        for split in _SPLITS:
            for name in _CLASSES:
                (directory / split / name).mkdir(parents=True)
            self._write_split(directory / split, split)

    def _write_split(self, directory: Path, split: str) -> None:
        scans, labels = _load_scans(split)
        order = np.random.default_rng(self.seed).permutation(len(scans))
        count = getattr(self, split)
        print(f'DigitScenes: drawing {count} {split} digits', flush=True)
        for index in track_iter_progress(range(count)):
            rng = np.random.default_rng(
                [self.seed, 1, _SPLITS.index(split), index]
            )
            chosen = order[index % len(scans)]
            image = self._draw(rng, scans, chosen)
            _write_png(
                directory / str(labels[chosen]) / f'{index:05d}.png', image
            )
        print()

    def _draw(self, rng, scans, chosen):
        """One picture (H, W, 3) of the scan with index ``chosen``."""
        image = _canvas(rng, self.size)
        _add_clutter(rng, image, scans, count=rng.integers(1, 4))
        opacity = self._place(rng, scans[chosen])
        _paint(rng, image, opacity, _DIGIT, contrast=45)
        return _noisy(rng, image)

    def _place(self, rng, scan) -> np.ndarray:
        return _place(rng, scan, self.size, (0.55, 0.85))


class Centered(Classification):
    """The pictures of :class:`Classification` with centred digits.

    For training without labels: the position of a digit then does not tell
    which picture a crop is from.
    """

    def _place(self, rng, scan) -> np.ndarray:
        opacity = super()._place(rng, scan)
        sides = _window(opacity)
        shifts = [(self.size - s.start - s.stop) // 2 for s in sides]
        return np.roll(opacity, shifts, axis=(0, 1))


PARTS = dict(scenes=Scenes, classification=Classification, centered=Centered)


def _check_at_least(parameters, **minima) -> None:
    """Raise ValueError unless every field is an integer >= its minimum."""
    for name, minimum in minima.items():
        value = getattr(parameters, name)
        if not isinstance(value, int) or value < minimum:
            raise ValueError(
                f'{name}={value!r} of DigitScenes: give an integer of at '
                f'least {minimum}.'
            )


def _load_scans(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Scans (n, 8, 8) from 0 to 1 and digits (n,) of a split.

    Which scans are held out depends on nothing but their class and index.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            'DigitScenes is drawn from the digits that scikit-learn ships, '
            'and scikit-learn cannot be imported. Install it with '
            '`pip install scikit-learn`.'
        ) from error
    data = load_digits()
    held_out = np.zeros(len(data.target), bool)
    for digit in range(10):
        members = np.flatnonzero(data.target == digit)
        order = np.random.default_rng(digit).permutation(members)
        held_out[order[: len(order) // _HELD_OUT]] = True
    chosen = held_out if split == 'val' else ~held_out
    return data.images[chosen] / 16, data.target[chosen]


def _canvas(rng, size: int) -> np.ndarray:
    """A background (size, size, 3) of slowly changing colour, 0 to 255."""
    coarse = rng.uniform(*_BACKGROUND, 3) + rng.uniform(-40, 40, (4, 4, 3))
    smooth = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    return smooth.clip(0, 255).astype(np.float32)


def _add_clutter(rng, image: np.ndarray, scans, count: int) -> None:
    """Draw lines, ellipses, boxes and torn pieces of digits on an image."""
    size = len(image)
    for _ in range(count):
        layer = np.zeros((size, size), np.float32)
        kind = rng.integers(4)
        start, end = rng.integers(0, size, (2, 2)).tolist()
        width = int(rng.integers(1, max(2, size // 24)))
        if kind == 0:
            cv2.line(layer, start, end, 1.0, width, cv2.LINE_AA)
        elif kind == 1:
            axes = rng.integers(size // 16, size // 4, 2).tolist()
            turn = float(rng.uniform(0, 180))
            arc = float(rng.uniform(60, 360))
            cv2.ellipse(
                layer, start, axes, turn, 0, arc, 1.0, width, cv2.LINE_AA
            )
        elif kind == 2:
            far = [s + int(rng.integers(size // 16, size // 4)) for s in start]
            cv2.rectangle(layer, start, far, 1.0, -1)
        else:
            scan = scans[rng.integers(len(scans))]
            corner = np.zeros_like(scan)
            corner[2:6, 2:6] = scan[:4, 4:]  # too little to be a digit
            corner = np.rot90(corner, rng.integers(4))
            layer = _place(rng, corner, size, (0.2, 0.42))
        _paint(rng, image, layer * np.float32(rng.uniform(0.3, 0.9)), _CLUTTER)


def _place(rng, scan, size: int, scales, fits=None) -> Optional[np.ndarray]:
    """Opacity (size, size), 0 to 1, of a scan put somewhere on a canvas.

    Args:
        scales (tuple): Smallest and largest side, relative to the canvas.
        fits (Callable, optional): Tells whether an opacity is acceptable.

    Returns:
        np.ndarray: The opacity, or None if no acceptable place was found.
    """
    glyph = _warp(rng, scan, rng.uniform(*scales) * size)
    height, width = glyph.shape
    for _ in range(_TRIES):
        top = rng.integers(0, size - height + 1)
        left = rng.integers(0, size - width + 1)
        layer = np.zeros((size, size), np.float32)
        layer[top : top + height, left : left + width] = glyph
        if fits is None or fits(layer):
            return layer
    return None


def _warp(rng, scan, side: float) -> np.ndarray:
    """A scan (8, 8) turned, sheared and enlarged to about ``side`` pixels.

    Returns:
        np.ndarray: Opacity from 0 to 1, cropped to the strokes.
    """
    angle = np.deg2rad(rng.uniform(-15, 15))
    turn = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    shear = [[rng.uniform(0.8, 1.1), rng.uniform(-0.2, 0.2)], [0, 1]]
    linear = np.array(turn) @ shear * side / 8
    canvas = int(np.ceil(1.6 * side))
    shift = canvas / 2 - linear @ [3.5, 3.5]
    large = cv2.warpAffine(
        scan.astype(np.float32),
        np.column_stack([linear, shift]),
        (canvas, canvas),
        flags=cv2.INTER_CUBIC,
    )
    opacity = ((large - 0.3) / 0.3).clip(0, 1).astype(np.float32)
    return opacity[_window(opacity)]


def _paint(
    rng, image: np.ndarray, opacity, brightness, contrast: float = 0
) -> None:
    """Blend a random colour into an image (H, W, 3), in place.

    Args:
        opacity (np.ndarray): (H, W), 0 to 1.
        brightness (tuple): Darkest and lightest value of each channel.
        contrast (float): Minimum difference in brightness, of 255, between the
            colour and what it covers.
    """
    colour = rng.uniform(*brightness, 3)
    if contrast:
        covered = image[opacity >= 0.5].mean()
        while abs(colour.mean() - covered) < contrast:
            colour = rng.uniform(*brightness, 3)
    rows, columns = _window(opacity)
    part = image[rows, columns]
    part += opacity[rows, columns, None] * (colour.astype(np.float32) - part)


def _window(opacity: np.ndarray) -> tuple[slice, slice]:
    """The smallest window (rows, columns) that holds all nonzero elements."""
    sides = []
    for axis in (1, 0):
        used = np.flatnonzero(opacity.any(axis))
        start, stop = (used[0], used[-1] + 1) if len(used) else (0, 0)
        sides.append(slice(int(start), int(stop)))
    return tuple(sides)


def _noisy(rng, image: np.ndarray) -> np.ndarray:
    """The image with sensor noise, as 8-bit values."""
    noise = rng.standard_normal(image.shape, np.float32)
    noisy = image + noise * np.float32(rng.uniform(2, 10))
    return noisy.round().clip(0, 255).astype(np.uint8)


def _semantic_map(masks: np.ndarray, digits) -> np.ndarray:
    """Class map (H, W): 0 background, 1 + d for digit d."""
    classes = np.add(digits, 1).astype(np.uint8)[:, None, None]
    return (masks * classes).max(0)


def _coco_annotation(mask: np.ndarray, digit: int) -> dict:
    """COCO fields of an instance from its visible mask (H, W)."""
    y, x = _window(mask)
    return dict(
        category_id=digit,
        bbox=[x.start, y.start, x.stop - x.start, y.stop - y.start],
        area=int(mask.sum()),
        iscrowd=0,
        segmentation=dict(size=list(mask.shape), counts=_run_lengths(mask)),
    )


def _run_lengths(mask: np.ndarray) -> list:
    """COCO's uncompressed code: run lengths by columns, zeros first."""
    flat = np.concatenate([[False], mask.ravel(order='F'), [False]])
    changes = np.flatnonzero(np.diff(flat.astype(np.int8)))
    ends = [0, *changes.tolist(), mask.size]
    return np.diff(ends).tolist()


def _write_png(path: Path, image: np.ndarray) -> None:
    """Write an RGB or grey image; raise OSError on failure."""
    if image.ndim == 3:
        image = image[..., ::-1]
    if not cv2.imwrite(str(path), image):
        raise OSError(f'Cannot write {path}. Is the disk full?')
