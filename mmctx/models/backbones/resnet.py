"""The parts that backbones with ResNet stages share."""

from collections.abc import Iterable
from typing import Any

import torch.nn as nn

from mmctx.models.layers.bottleneck import Bottleneck, conv_norm

from .base import NUM_STAGES


class ResNetSkeleton:
    """Stem, widths, strides, shortcuts and initial values of a ResNet.

    A mixin for subclasses of
    :class:`~mmctx.models.backbones.base.ContextBackbone`, which set
    ``norm_cfg``, ``stem_channels`` and ``base_channels`` (those inside the
    bottlenecks of the first stage), and choose the operator of a bottleneck.

    Source: `Deep Residual Learning for Image Recognition
    <https://arxiv.org/abs/1512.03385>`_, Table 1, with the stride in the
    3 x 3 convolution.
    """

    #: Blocks of the four stages by depth.
    arch_settings = {
        14: (1, 1, 1, 1),
        26: (2, 2, 2, 2),
        50: (3, 4, 6, 3),
        101: (3, 4, 23, 3),
    }
    #: Ratio of a stage's output channels to those inside its bottlenecks.
    expansion = 4
    #: Stride of the first block of each stage.
    strides = (1, 2, 2, 2)

    @classmethod
    def _stage_channels(cls, base_channels: int) -> list[int]:
        """Channels of the stages' outputs."""
        return [
            cls.expansion * base_channels * 2**i for i in range(NUM_STAGES)
        ]

    def _make_stem(self) -> nn.Sequential:
        return conv_norm(
            self.in_channels, self.stem_channels, 7, 2, self.norm_cfg,
            nn.ReLU(inplace=True), nn.MaxPool2d(3, stride=2, padding=1),
        )  # fmt: skip

    def _stem_out_channels(self) -> int:
        return self.stem_channels

    def _operator_width(self, stage: int) -> int:
        """Channels inside the bottlenecks."""
        return self.base_channels * 2**stage

    def _geometry(self, stage: int, index: int) -> tuple[int, int]:
        """Stride of a block, and dilation of the layer that has it."""
        if index:
            return 1, self.dilations[stage]
        return self._entry(stage) if stage else (self.strides[0], 1)

    def _make_bottleneck(
        self,
        stage: int,
        index: int,
        drop_path: float,
        block_type: type[Bottleneck] = Bottleneck,
        **kwargs: Any,
    ) -> Bottleneck:
        """Build a block.

        Args:
            stage (int): Index of the stage.
            index (int): Index of the block inside it.
            drop_path (float): Probability of dropping the branch.
            block_type (type): Class of the block. Defaults to Bottleneck.
            **kwargs: Its operator and further arguments.
        """
        channels = self._stage_channels(self.base_channels)
        out_channels = in_channels = channels[stage]
        shortcut = nn.Identity()
        if index == 0:
            in_channels = (
                channels[stage - 1] if stage else self._stem_out_channels()
            )
            shortcut = self._make_shortcut(
                in_channels, out_channels, *self._geometry(stage, index)
            )
        return block_type(
            in_channels, self._operator_width(stage), out_channels,
            shortcut=shortcut, norm_cfg=self.norm_cfg, drop_path=drop_path,
            **kwargs,
        )  # fmt: skip

    def _make_shortcut(
        self, in_channels: int, out_channels: int, stride: int, dilation: int
    ) -> nn.Sequential:
        return conv_norm(in_channels, out_channels, 1, stride, self.norm_cfg)

    def _make_conv(self, width: int, stride: int, dilation: int) -> nn.Module:
        """An ordinary convolution as operator."""
        return conv_norm(
            width, width, 3, stride, self.norm_cfg, nn.ReLU(inplace=True),
            dilation=dilation,
        )  # fmt: skip

    def _reset_parameters(self) -> None:
        self._reset_modules(self.modules())

    @staticmethod
    def _reset_modules(modules: Iterable[nn.Module]) -> None:
        for module in modules:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(
                    module.weight, mode='fan_out', nonlinearity='relu'
                )
            elif isinstance(module, Bottleneck):
                weight = module.expand[1].weight
                if weight is not None:
                    # Every block starts as its shortcut.
                    nn.init.zeros_(weight)
