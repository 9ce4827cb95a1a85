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
        dataset (dict): Data set of mmpretrain to remember: training images
            with the transforms of evaluation. Batches and workers are those
            of the evaluation's data loader.
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
            settings.pop('persistent_workers', None)  # it is seldom read
            self._loader = runner.build_dataloader(settings, runner.seed)
        model = runner.model
        model = model.module if is_model_wrapper(model) else model
        runner.logger.info(
            f'Features of {len(self._loader.dataset)} images to compare with'
        )
        model.classifier.remember(*collect_features(model, self._loader))


@torch.no_grad()
def collect_features(model, loader) -> tuple[Tensor, Tensor]:
    """Directions (M, C) of the features of M images, and classes (M,).

    A distributed sampler may repeat images; each has one place here, by its
    index in the data set, where what several processes found is added up
    (hence directions) or, for the class, the same.
    """
    model.eval()
    features = labels = None
    for batch in loader:
        batch = model.data_preprocessor(batch, False)
        found = model.extract_feat(batch['inputs']).float()
        samples = batch['data_samples']
        if features is None:
            size = len(loader.dataset)
            features = found.new_zeros(size, found.shape[1])
            labels = torch.zeros(size, dtype=torch.long, device=found.device)
        index = [sample.sample_idx for sample in samples]
        features[index] = found
        labels[index] = torch.cat([sample.gt_label for sample in samples])
    all_reduce(features, op='sum')
    all_reduce(labels, op='max')
    return features, labels
