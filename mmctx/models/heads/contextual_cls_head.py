"""The classifier of Contextual CNN."""

from typing import Optional

import torch
from mmengine.registry import MODELS
from mmpretrain.models.heads import ClsHead
from torch import Tensor


class ContextualClsHead(ClsHead):
    """Reads the class scores that the backbone has computed.

    It has no parameters: class embeddings and score heads belong to the
    backbone, which must be built with ``with_class_scores=True``.

    Args:
        num_classes (int, optional): Number of classes, checked against the
            backbone's. Defaults to no check.
        in_channels (int, optional): Ignored; other heads need it.
        loss (dict, optional): Config of a loss with the method
            ``stage_losses`` of
            :class:`~mmctx.models.losses.ProgressiveLoss`. Defaults to
            ``dict(type='ProgressiveLoss')``.
        **kwargs: See mmpretrain's ``ClsHead``.
    """

    def __init__(
        self,
        num_classes: Optional[int] = None,
        in_channels: Optional[int] = None,
        loss: Optional[dict] = None,
        **kwargs,
    ) -> None:
        loss = loss or dict(type='ProgressiveLoss')
        if isinstance(loss, dict):
            loss = MODELS.build(loss)
        super().__init__(loss=loss, **kwargs)
        self.num_classes = num_classes

    def pre_logits(self, feats: tuple[Tensor, ...]) -> Tensor:
        """Scores (N, classes) of the last stage.

        With ``selection='reduce'`` a class that is no longer considered
        scores minus infinity.

        Raises:
            ValueError: ``feats`` has no class scores or the wrong number of
                them.
        """
        scores = getattr(feats, 'class_scores', ())
        if not scores:
            raise ValueError(
                'ContextualClsHead reads the class scores of the backbone, '
                'and there are none. Build ContextualConvNeXt or '
                'ContextualResNet with with_class_scores=True, and leave the '
                'neck out.'
            )
        if self.num_classes not in (None, scores[-1].shape[1]):
            raise ValueError(
                f'This ContextualClsHead has num_classes={self.num_classes}, '
                f'and the backbone scores {scores[-1].shape[1]} classes. Set '
                'num_classes of both to the same number.'
            )
        return scores[-1]

    def forward(self, feats: tuple[Tensor, ...]) -> Tensor:
        """Logits (N, classes), in the order of the classes."""
        return self.pre_logits(feats)

    def loss(self, feats: tuple[Tensor, ...], data_samples, **kwargs) -> dict:
        """Weighted loss of each stage, and the accuracy with ``cal_acc``.

        Args:
            feats (tuple[Tensor]): What the backbone returned.
            data_samples (list[DataSample]): Labels, or mixed targets.

        Returns:
            dict[str, Tensor]: 'stage1_loss' and so on, which mmengine adds
            up; 'accuracy_top-1' with ``cal_acc=True``.
        """
        logits = self(feats)
        if 'gt_score' in data_samples[0]:
            target = torch.stack([s.gt_score for s in data_samples])
        else:
            target = torch.cat([s.gt_label for s in data_samples])
        stages = self.loss_module.stage_losses(
            feats.class_scores, target, feats.considered, **kwargs
        )
        losses = {f'stage{i}_loss': v for i, v in enumerate(stages, 1)}
        if self.cal_acc:
            losses.update(self._accuracy(logits, target))
        return losses

    def _accuracy(self, logits: Tensor, target: Tensor) -> dict:
        if target.dim() == 2:
            raise ValueError(
                'The accuracy of mixed targets is not defined: set '
                'cal_acc=False, or train without Mixup and CutMix.'
            )
        from mmpretrain.evaluation.metrics import Accuracy

        accuracies = Accuracy.calculate(logits, target, topk=self.topk)
        return {f'accuracy_top-{k}': a for k, a in zip(self.topk, accuracies)}
