"""Contextual ResNet."""

from collections.abc import Sequence
from typing import Optional, Union

import torch.nn as nn
from mmengine.registry import MODELS
from torch import Tensor

from mmctx.models.backbones.base import NUM_STAGES
from mmctx.models.backbones.contextual_cnn import ContextualCNN
from mmctx.models.backbones.resnet import ResNetSkeleton
from mmctx.models.layers import ContextualConv2d
from mmctx.models.layers.bottleneck import Bottleneck, resolve_depth
from mmctx.registry import register


class ContextualOperator(nn.Sequential):
    """A contextual convolution and the layers that follow it."""

    def forward(
        self, x: Tensor, context: Optional[Tensor], valid: Optional[Tensor]
    ) -> Tensor:
        """(N, C, H, W), context and valid sizes to (N, C, H', W').

        Raises:
            ValueError: The norm was folded into the convolution's weights,
                though the predicted offsets of the weights need it, too.
        """
        conv, *layers = self
        predictor = getattr(conv, 'weight_predictor', None)  # if not wrapped
        if predictor and isinstance(layers[0], nn.Identity):
            raise ValueError(
                'fuse_conv_bn cannot fold the norm behind a contextual '
                'convolution: its weights change with each image. Fuse the '
                'other parts of the model.'
            )
        x = conv(x, context, valid)
        for layer in layers:
            x = layer(x)
        return x


class ContextualBottleneck(Bottleneck):
    """A bottleneck whose K x K convolution may be contextual.

    Args:
        *args, **kwargs: See
            :class:`~mmctx.models.layers.bottleneck.Bottleneck`.
        contextual (bool): Whether the operator takes a context and valid
            sizes.
        stride (int): Stride of the operator.
    """

    def __init__(self, *args, contextual: bool, stride: int, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.contextual = contextual
        self.stride = stride

    def forward(
        self, x: Tensor, context: Optional[Tensor], valid: Optional[Tensor]
    ) -> Tensor:
        """(N, C_in, H, W), context and valid sizes to (N, C, H', W')."""
        if self.contextual:
            return super().forward(x, context, valid)
        return super().forward(x)


@register(MODELS)
class ContextualResNet(ResNetSkeleton, ContextualCNN):
    """ResNet whose 3 x 3 convolutions are contextual.

    Batch norms over one vector per image need large batches in training; for a
    single image they use their running statistics.

    Args:
        depth (int or Sequence[int]): 50 as published, 14, 26 or 101, or the
            number of blocks in each of the four stages. Defaults to 50.
        stem_channels (int): Channels of the stem. Defaults to 64.
        base_channels (int): Width of the first stage's bottlenecks, doubled
            from stage to stage; stage i returns 4 * base_channels * 2**i
            channels. Defaults to 64.
        contextual_every (int): See :class:`ContextualCNN`. Defaults to 2.
        norm_cfg (dict, optional): Norm layers, those of vectors included;
            the mergers have layer norms. Defaults to ``dict(type='BN')``.
        **kwargs: See :class:`ContextualCNN`.

    Example:
        >>> maps = ContextualResNet(depth=50)(torch.rand(2, 3, 224, 224))
        >>> [tuple(m.shape) for m in maps]
        [(2, 256, 56, 56), (2, 512, 28, 28), (2, 1024, 14, 14), (2, 2048, 7, 7)]
    """  # noqa: E501

    def __init__(
        self,
        depth: Union[int, Sequence[int]] = 50,
        stem_channels: int = 64,
        base_channels: int = 64,
        contextual_every: int = 2,
        **kwargs,
    ) -> None:
        name = type(self).__name__
        self.stem_channels = stem_channels
        self.base_channels = base_channels
        widths = [self._operator_width(i) for i in range(NUM_STAGES)]
        super().__init__(
            self._stage_channels(base_channels),
            widths,
            widths,
            resolve_depth(name, depth, self.arch_settings),
            contextual_every=contextual_every,
            **kwargs,
        )

    def _make_block(
        self, stage: int, index: int, rate: float, conv_cfg: Optional[dict]
    ) -> nn.Module:
        width = self._operator_width(stage)
        stride, dilation = self._geometry(stage, index)
        operator = self._make_conv(width, stride, dilation)
        if conv_cfg is not None:
            conv = ContextualConv2d(
                width, width, 3, stride, dilation, dilation, bias=False,
                **conv_cfg,
            )  # fmt: skip
            operator = ContextualOperator(conv, *operator[1:])
        return self._make_bottleneck(
            stage,
            index,
            rate,
            ContextualBottleneck,
            operator=operator,
            contextual=conv_cfg is not None,
            stride=stride,
        )

    def _reset_parameters(self) -> None:
        self._reset_modules(self._plain_modules())
