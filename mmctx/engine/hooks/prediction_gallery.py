from pathlib import Path

from mmengine.dist import master_only
from mmengine.hooks import Hook

from mmctx.registry import HOOKS, register

__all__ = ['PredictionGallery']


@register(HOOKS)
class PredictionGallery(Hook):
    """Draws predictions beside ground truth into the work directory.

    After each validation and test, the first images of the data set are drawn,
    ground truth left and prediction right, to ``gallery/`` and together to
    ``gallery.png``, replacing those of the validation before. Stock
    visualization hooks instead draw every few iterations and keep all
    pictures.

    Args:
        num_images (int): Number of images to draw.
        score_thr (float): Minimum score of drawn instances.
        min_side (int): Smaller images are enlarged to this short side.
    """

    def __init__(
        self, num_images: int = 9, score_thr: float = 0.3, min_side: int = 384
    ):
        self.num_images = num_images
        self.score_thr = score_thr
        self.min_side = min_side
        self._samples = []

    def before_val_epoch(self, runner) -> None:
        self._samples = []

    before_test_epoch = before_val_epoch

    @master_only
    def after_val_iter(
        self, runner, batch_idx, data_batch=None, outputs=None
    ) -> None:
        room = self.num_images - len(self._samples)
        self._samples += [sample.cpu() for sample in outputs[:room]]

    after_test_iter = after_val_iter

    @master_only
    def after_val_epoch(self, runner, metrics=None) -> None:
        from mmctx.visualization.gallery import contact_sheet, draw_sample

        if not self._samples:
            return
        work_dir = Path(runner.work_dir)
        files = []
        for sample in self._samples:
            name = f'{Path(sample.img_path).stem}.png'
            files.append(work_dir / 'gallery' / name)
            draw_sample(
                runner.visualizer,
                sample,
                files[-1],
                self.score_thr,
                self.min_side,
            )
        contact_sheet(files, work_dir / 'gallery.png')
        runner.logger.info(f'Pictures: {work_dir / "gallery.png"}')
        self._samples = []

    after_test_epoch = after_val_epoch
