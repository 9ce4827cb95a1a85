"""Self-distillation without labels."""

from collections.abc import Sequence
from itertools import groupby
from math import cos, pi
from typing import Optional, Union

import torch
import torch.nn as nn
from mmengine.logging import MessageHub
from mmengine.registry import MODELS
from mmpretrain.models.selfsup import BaseSelfSupervisor
from mmpretrain.models.utils import CosineEMA
from mmpretrain.structures import DataSample
from torch import Tensor

Inputs = Union[Tensor, Sequence[Tensor]]


class Teacher(CosineEMA):
    """A moving average of a student, without its stochastic depth.

    The share of the student in a step falls from ``momentum`` to 0 along a
    cosine over training; without a runner it is constant. All parameters are
    averaged at once and nothing is read back from the device, unlike in
    mmpretrain's class. Batch statistics are the teacher's own.
    """

    def __init__(self, student: nn.Module, momentum: float) -> None:
        super().__init__(student, momentum=momentum)
        for module in self.module.modules():
            if hasattr(module, 'drop_prob'):
                module.drop_prob = 0.0

    def current_momentum(self) -> float:
        """The share of the student at this iteration of the runner."""
        hub = MessageHub.get_current_instance()
        progress = hub.get_info('iter', 0) / hub.get_info('max_iters', 1)
        return self.momentum * (1 + cos(pi * progress)) / 2

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        torch._foreach_lerp_(
            list(self.module.parameters()),
            list(model.parameters()),
            self.current_momentum(),
        )
        self.steps += 1


class DINOSelfDistillation(BaseSelfSupervisor):
    """DINO: a student learns what its own moving average sees.

    The student sees all views of an image, the teacher the first
    ``num_global_views`` of them; :class:`~mmctx.models.losses.DINOLoss`
    compares them. The teacher follows the student at the start of each step.
    The teacher is the result: features are its pooled ones, and predictions
    come from their nearest neighbours. To start another model from its
    backbone, give ``init_cfg`` the prefix ``'teacher.module.backbone.'``.

    The name is not ``DINO``, which is a detector of mmdet.

    Source: `Emerging Properties in Self-Supervised Vision Transformers
    <https://arxiv.org/abs/2104.14294>`_, Sec. 3.

    Args:
        backbone (dict): Backbone whose stochastic depth (modules with a
            ``drop_prob``) only the student has.
        neck (dict, optional): Pools the feature maps into one vector (N, C)
            per image. None: the backbone returns such a vector.
        head (dict): From vectors (N, C) to logits (N, K), such as
            :class:`~mmctx.models.heads.DINOProjectionHead`.
        loss (dict): From logits (V, N, K) of the student and (G, N, K) of
            the teacher to a scalar.
        classifier (dict, optional): For evaluation:
            :class:`~mmctx.models.heads.NearestNeighborsHead`.
        base_momentum (float): Share of the student in the teacher's first
            step; it falls to 0 along a cosine. Defaults to 0.004.
        num_global_views (int): Views of the teacher, the first of all.
            Defaults to 2.
        data_preprocessor, init_cfg: See mmpretrain's
            ``BaseSelfSupervisor``.
    """

    def __init__(
        self,
        backbone: dict,
        neck: Optional[dict],
        head: dict,
        loss: dict,
        classifier: Optional[dict] = None,
        base_momentum: float = 0.004,
        num_global_views: int = 2,
        data_preprocessor: Optional[dict] = None,
        init_cfg: Optional[dict] = None,
    ) -> None:
        super().__init__(
            backbone,
            neck,
            head,
            data_preprocessor=data_preprocessor,
            init_cfg=init_cfg,
        )
        self.num_global_views = num_global_views
        self.criterion = MODELS.build(loss)
        self.classifier = MODELS.build(classifier) if classifier else None
        self.teacher = Teacher(self._student(), base_momentum)

    def _student(self) -> nn.ModuleDict:
        parts = dict(backbone=self.backbone, neck=self.neck, head=self.head)
        return nn.ModuleDict(parts)

    def init_weights(self) -> None:
        """Initialise the student and copy it into the teacher."""
        super().init_weights()
        self.teacher.module.load_state_dict(self._student().state_dict())

    def forward(
        self,
        inputs: Inputs,
        data_samples: Optional[list[DataSample]] = None,
        mode: str = 'tensor',
    ) -> Union[Tensor, list, dict]:
        """Features (``'tensor'``), ``'loss'`` or predictions (``'predict'``).

        Args:
            inputs (Tensor or Sequence[Tensor]): Images (N, C, H, W); for the
                loss the views of the images, each such a batch.
            data_samples (list[DataSample], optional): Samples that predictions
                are added to.
            mode (str): What to compute.
        """
        if mode == 'predict':
            return self.predict(inputs, data_samples)
        return super().forward(inputs, data_samples, mode)

    def extract_feat(self, inputs: Tensor) -> Tensor:
        """Pooled features (N, C) of the teacher."""
        return _features(self.teacher.module, inputs)

    def predict(
        self, inputs: Tensor, data_samples: list[DataSample]
    ) -> list[DataSample]:
        """Classes of the nearest neighbours.

        Raises:
            RuntimeError: The model has no classifier, or its bank is empty.
        """
        if self.classifier is None:
            raise RuntimeError(
                'This DINOSelfDistillation has no classifier. For an '
                'evaluation give it classifier=dict(type='
                "'NearestNeighborsHead', num_classes=...)."
            )
        return self.classifier.predict(self.extract_feat(inputs), data_samples)

    def loss(
        self,
        inputs: Sequence[Tensor],
        data_samples: Optional[list[DataSample]] = None,
    ) -> dict[str, Tensor]:
        """The distillation loss of V views (N, C, H_v, W_v) of N images.

        Raises:
            ValueError: There are no local views beside the teacher's, and
                the teacher has only one.
        """
        global_views = self.num_global_views
        if isinstance(inputs, Tensor) or len(inputs) < max(global_views, 2):
            num_views = 1 if isinstance(inputs, Tensor) else len(inputs)
            raise ValueError(
                f'DINOSelfDistillation compares at least two views of an '
                f'image, of which the teacher sees {global_views}, got '
                f'{num_views}. Make views with the transform MultiView.'
            )
        with torch.no_grad():
            self.teacher.update_parameters(self._student())
            targets = _logits(self.teacher.module, inputs[:global_views])
        logits = _logits(self._student(), inputs)
        return dict(loss=self.criterion(logits, targets))


def _features(network: nn.ModuleDict, images: Tensor) -> Tensor:
    """Images (N, 3, H, W) to pooled features (N, C)."""
    pooled = network['backbone'](images)
    if network['neck'] is not None:
        pooled = network['neck'](pooled)
    return pooled if isinstance(pooled, Tensor) else pooled[-1]


def _logits(network: nn.ModuleDict, views: Sequence[Tensor]) -> Tensor:
    """V views (N, 3, H_v, W_v) to logits (V, N, K).

    Consecutive views of one size run through the backbone as one batch.
    """
    features = torch.cat(
        [
            _features(network, torch.cat(list(group)))
            for _, group in groupby(views, key=lambda view: view.shape)
        ]
    )
    return network['head'](features).unflatten(0, (len(views), -1))
