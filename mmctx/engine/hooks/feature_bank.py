import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from torch import Tensor

from mmctx.registry import HOOKS, register

__all__ = ['FeatureBank']


@register(HOOKS)
class FeatureBank(Hook):
    """Fills the bank of a nearest-neighbour classifier before evaluation.

    The model has ``extract_feat(images) -> (N, C)`` and a ``classifier`` with
    ``remember(features, labels)``. Processes share the work, and each holds
    the whole bank afterwards.

    Args:
        dataset (dict): mmpretrain data set to remember: training images with
            test-time transforms. Batch size and workers are those of the
            evaluation's data loader.
    """

    def __init__(self, dataset: dict) -> None:
        self.dataset = dataset
        self._loader = None

    def before_val_epoch(self, runner) -> None:
        self._fill(runner, 'val_dataloader')

    def before_test_epoch(self, runner) -> None:
        self._fill(runner, 'test_dataloader')

    def _fill(self, runner, like: str) -> None:
        if self._loader is None:
            settings = dict(runner.cfg[like], dataset=self.dataset)
            settings.pop('persistent_workers', None)  # rarely iterated
            self._loader = runner.build_dataloader(settings, runner.seed)
        model = runner.model
        model = model.module if is_model_wrapper(model) else model
        runner.logger.info(
            f'Features of {len(self._loader.dataset)} images to compare with'
        )
        model.classifier.remember(*collect_features(model, self._loader))


@torch.no_grad()
def collect_features(model, loader) -> tuple[Tensor, Tensor]:
    """Features (M, C) of M images up to scale, and their classes (M,).

    A distributed sampler may repeat images. Each has one row, by its index in
    the data set, in which features from several processes add up (hence the
    scale); their classes agree.
    """
    model.eval()
    features = labels = None
    for batch in loader:
        batch = model.data_preprocessor(batch, False)
        batch_features = model.extract_feat(batch['inputs']).float()
        samples = batch['data_samples']
        if features is None:
            size = len(loader.dataset)
            features = batch_features.new_zeros(size, batch_features.shape[1])
            labels = features.new_zeros(size, dtype=torch.long)
        index = [sample.sample_idx for sample in samples]
        features[index] = batch_features
        labels[index] = torch.cat([sample.gt_label for sample in samples])
    all_reduce(features, op='sum')
    all_reduce(labels, op='max')
    return features, labels
