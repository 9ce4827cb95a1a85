"""Contextual ResNet."""

from collections.abc import Sequence
from typing import Optional, Union

import torch.nn as nn
from mmengine.registry import MODELS
from torch import Tensor

from mmctx.models.backbones.base import NUM_STAGES, require_norm
from mmctx.models.backbones.contextual_cnn import ContextualCNN
from mmctx.models.layers.bottleneck import (
    Bottleneck,
    conv_norm,
    resolve_depth,
)
from mmctx.registry import register


class ContextualOperator(nn.Sequential):
    """A contextual convolution and the layers behind it."""

    def forward(
        self, x: Tensor, context: Optional[Tensor], valid: Optional[Tensor]
    ) -> Tensor:
        """(N, C, H, W), context and valid sizes to (N, C, H', W')."""
        conv, *layers = self
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
        stride (int): That of the operator.
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
class ContextualResNet(ContextualCNN):
    """ResNet whose 3 x 3 convolutions are contextual.

    Batch norms over one vector per image need many images to be of use in
    training; for a single image they use their running statistics.

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

    arch_settings = {
        14: (1, 1, 1, 1),
        26: (2, 2, 2, 2),
        50: (3, 4, 6, 3),
        101: (3, 4, 23, 3),
    }
    expansion = 4

    def __init__(
        self,
        depth: Union[int, Sequence[int]] = 50,
        stem_channels: int = 64,
        base_channels: int = 64,
        contextual_every: int = 2,
        norm_cfg: Optional[dict] = None,
        **kwargs,
    ) -> None:
        name = type(self).__name__
        self.widths = [base_channels * 2**i for i in range(NUM_STAGES)]
        self.stem_channels = stem_channels
        super().__init__(
            stage_channels=[self.expansion * w for w in self.widths],
            conv_channels=self.widths,
            score_channels=self.widths,
            depths=resolve_depth(name, depth, self.arch_settings),
            norm_cfg=require_norm(
                norm_cfg, dict(type='BN'), name, 'normalises feature maps'
            ),
            contextual_every=contextual_every,
            **kwargs,
        )

    def _make_stem(self) -> nn.Module:
        return conv_norm(
            self.in_channels, self.stem_channels, 7, 2, self.norm_cfg,
            nn.ReLU(inplace=True), nn.MaxPool2d(3, stride=2, padding=1),
        )  # fmt: skip

    def _make_block(
        self, stage: int, index: int, rate: float, conv_cfg: Optional[dict]
    ) -> nn.Module:
        width = self.widths[stage]
        out_channels = self.expansion * width
        in_channels, stride, shortcut = out_channels, 1, nn.Identity()
        if index == 0:
            stride = 1 if stage == 0 else 2
            in_channels = (
                self.expansion * self.widths[stage - 1]
                if stage > 0
                else self.stem_channels
            )
            shortcut = conv_norm(
                in_channels, out_channels, 1, stride, self.norm_cfg
            )
        operator = conv_norm(
            width, width, 3, stride, self.norm_cfg, nn.ReLU(inplace=True)
        )
        if conv_cfg is not None:
            conv = self._make_conv(
                conv_cfg, width, width, 3, stride, padding=1, bias=False
            )
            operator = ContextualOperator(conv, *operator[1:])
        return ContextualBottleneck(
            in_channels,
            width,
            out_channels,
            operator,
            shortcut,
            self.norm_cfg,
            rate,
            contextual=conv_cfg is not None,
            stride=stride,
        )

    def _reset_parameters(self) -> None:
        for module in self._plain_modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(
                    module.weight, mode='fan_out', nonlinearity='relu'
                )
            elif isinstance(module, Bottleneck):
                # Every block starts as its shortcut.
                nn.init.zeros_(module.expand[1].weight)
