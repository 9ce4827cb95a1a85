"""Cascade R-CNN's RoI heads as detectron2 trains them."""

from typing import Any, Optional

import torch
from mmdet.models.roi_heads import CascadeRoIHead, StandardRoIHead
from mmdet.registry import MODELS
from mmdet.structures.bbox import bbox2roi
from torch import Tensor


class ScaledGradient(torch.autograd.Function):
    """The identity, with its gradient times ``factor``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.factor, None


class SingleMaskCascadeRoIHead(CascadeRoIHead):
    r"""Box heads of a cascade of S stages, and one mask head.

    mmdet's ``CascadeRoIHead`` has a mask head per stage. This one learns from
    the proposals of the first stage and predicts on the boxes of the last.
    While each box head learns from the whole loss :math:`L_s` of its stage,
    the feature maps x, and so neck and backbone, get the mean of the stages:

    .. math::
        \frac{\partial L}{\partial x} =
        \frac{1}{S} \sum_{s=1}^S \frac{\partial L_s}{\partial x}
        + \frac{\partial L_\mathrm{mask}}{\partial x} .

    Source: `Cascade R-CNN <https://arxiv.org/abs/1906.09756>`_, where one
    variant has its mask branch at the first stage; released code:
    ``CascadeROIHeads`` of detectron2.

    Args:
        mask_head (dict, optional): Config of the mask head. Defaults to none.
        mask_roi_extractor (dict, optional): Config of its RoI extractor.
            Defaults to that of the first box head.
        **kwargs: See mmdet's ``CascadeRoIHead``. In detectron2
            ``stage_loss_weights`` are all 1.

    Raises:
        TypeError: ``mask_head`` or ``mask_roi_extractor`` is a list, one for
            each stage.
    """

    def init_mask_head(
        self, mask_roi_extractor: Optional[dict], mask_head: dict
    ) -> None:
        """Build the mask head and its RoI extractor."""
        for config in (mask_roi_extractor, mask_head):
            if isinstance(config, (list, tuple)):
                raise TypeError(
                    f'{type(self).__name__} has one mask head for all stages, '
                    f'but got {len(config)} configs: give one dict, or take '
                    'CascadeRoIHead.'
                )
        self.mask_head = MODELS.build(mask_head)
        self.mask_roi_extractor = (
            MODELS.build(mask_roi_extractor)
            if mask_roi_extractor
            else self.bbox_roi_extractor[0]
        )

    # Here the mask branch is that of Mask R-CNN.
    _mask_forward = StandardRoIHead._mask_forward
    predict_mask = StandardRoIHead.predict_mask

    def bbox_loss(
        self, stage: int, x: tuple[Tensor, ...], sampling_results: list
    ) -> dict:
        """As in mmdet, with the gradient into ``x`` scaled by 1 / S."""
        x = [ScaledGradient.apply(level, 1 / self.num_stages) for level in x]
        return super().bbox_loss(stage, x, sampling_results)

    def mask_loss(
        self,
        stage: int,
        x: tuple[Tensor, ...],
        sampling_results: list,
        batch_gt_instances: list,
    ) -> dict:
        """The loss on the first stage's proposals; none after it."""
        if stage > 0:
            return dict(loss_mask={})
        rois = bbox2roi([result.pos_priors for result in sampling_results])
        return self.mask_head.loss_and_target(
            self._mask_forward(x, rois)['mask_preds'],
            sampling_results,
            batch_gt_instances,
            self.train_cfg[stage],
        )

    def forward(
        self,
        x: tuple[Tensor, ...],
        rpn_results_list: list,
        batch_data_samples: list,
    ) -> tuple[Any, ...]:
        """Scores and deltas of the last stage, and mask logits, by image."""
        proposals = [result.bboxes for result in rpn_results_list]
        counts = tuple(map(len, proposals))
        rois, scores, deltas = self._refine_roi(
            x,
            bbox2roi(proposals),
            [sample.metainfo for sample in batch_data_samples],
            counts,
        )
        if not self.with_mask:
            return scores, deltas
        masks = self._mask_forward(x, torch.cat(rois))['mask_preds']
        return scores, deltas, masks.split(counts)
