"""CoTNet, CoTNeXt and SE-CoTNetD."""

from collections.abc import Sequence
from typing import Any, Optional, Union

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmengine.registry import MODELS
from torch import Tensor

from mmctx.models.layers import CoTLayer, CoXtLayer
from mmctx.models.layers.bottleneck import Bottleneck, conv_norm, resolve_depth
from mmctx.models.layers.norms import VectorSequential
from mmctx.models.layers.pooling import average_pool
from mmctx.registry import register
from mmctx.weights.keys import cotnet as keys

from .base import (
    NUM_STAGES,
    ContextBackbone,
    Stage,
    drop_path_rates,
)
from .resnet import ResNetSkeleton


class SEConv(nn.Module):
    """3 x 3 convolution whose output channels are gated by their own means.

    The squeeze-and-excitation convolution of the SE-CoTNetD blocks that
    carry no CoT layer.

    Args:
        channels (int): Channels of input and output.
        stride (int): Stride of the convolution.
        dilation (int): Dilation of the convolution.
        norm_cfg (dict): Norm layers.
    """

    def __init__(
        self, channels: int, stride: int, dilation: int, norm_cfg: dict
    ) -> None:
        super().__init__()
        hidden = max(channels // 4, 32)
        self.conv = conv_norm(
            channels, channels, 3, stride, norm_cfg, nn.SiLU(inplace=True),
            dilation=dilation,
        )  # fmt: skip
        self.gate = VectorSequential(
            nn.Conv2d(channels, hidden, 1),
            build_norm_layer(norm_cfg, hidden)[1],
            nn.SiLU(inplace=True),
            nn.Conv2d(hidden, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, ceil(H / stride), ceil(W / stride))."""
        x = self.conv(x)
        return x * self.gate(x.mean((2, 3), keepdim=True))


class BlurPool(nn.Module):
    """Halve the resolution after a fixed 3 x 3 binomial filter.

    Args:
        channels (int): Channels, filtered one by one.
        stride (int): 2, or 1 to keep the resolution.
        dilation (int): Dilation of the filter.
    """

    def __init__(self, channels: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.stride = stride
        self.dilation = dilation
        taps = torch.tensor([1.0, 2.0, 1.0]) / 4
        kernel = torch.outer(taps, taps).expand(channels, 1, 3, 3)
        self.register_buffer('kernel', kernel.clone(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, ceil(H / stride), ceil(W / stride))."""
        d = self.dilation
        if d == 1:
            x = F.pad(x, (1, 1, 1, 1), mode='reflect')
        else:
            x = self._reflect(self._reflect(x, 2), 3)
        return F.conv2d(
            x, self.kernel, None, self.stride, 0, d, groups=x.shape[1]
        )

    def _reflect(self, x: Tensor, dim: int) -> Tensor:
        """Pad by reflections among every d-th pixel."""
        d = self.dilation
        end = x.shape[dim] - 2 * d
        parts = x.narrow(dim, d, d), x, x.narrow(dim, end, d)
        return torch.cat(parts, dim)


@register(MODELS)
class CoTNet(ResNetSkeleton, ContextBackbone):
    """ResNet whose 3 x 3 convolutions are contextual transformer layers.

    Source: `Contextual Transformer Networks for Visual Recognition
    <https://arxiv.org/abs/2107.12292>`_, Sec. 3.3, Table 1; released code:
    https://github.com/JDAI-CV/CoTNet.

    Args:
        depth (int or Sequence[int]): 50 or 101 as published, 14 or 26 for
            small machines, or the number of blocks in each of the four
            stages. Defaults to 50.
        stem_channels (int): Channels of the stem. Defaults to 64.
        base_channels (int): Width of the first stage's bottlenecks, doubled
            from stage to stage; stage i returns 4 * base_channels * 2**i
            channels. Defaults to 64.
        cot_stages (Sequence[int]): Stages (0 to 3) that carry CoT layers;
            the others keep ordinary 3 x 3 convolutions (Table 6). Defaults
            to (0, 1, 2, 3).
        context (str): What the CoT layers return (Table 5): 'full',
            'static', 'dynamic' or 'linear'. Defaults to 'full'.
        norm_cfg (dict): Norm layers; the attention's group norm stays.
            Defaults to ``dict(type='BN')``.
        drop_path_rate (float): Stochastic depth of the last block; it grows
            linearly from 0 at the first. Defaults to 0.
        **kwargs: See :class:`ContextBackbone`.

    Raises:
        ValueError: An argument is invalid.

    Example:
        >>> maps = CoTNet(depth=50)(torch.rand(2, 3, 224, 224))
        >>> [tuple(m.shape) for m in maps]
        [(2, 256, 56, 56), (2, 512, 28, 28), (2, 1024, 14, 14), (2, 2048, 7, 7)]
    """  # noqa: E501

    key_map = staticmethod(keys.key_map)
    layer_type = CoTLayer
    #: Every n-th block of a stage, from the first, has a CoT layer.
    cot_every = (1, 1, 1, 1)

    def __init__(
        self,
        depth: Union[int, Sequence[int]] = 50,
        stem_channels: int = 64,
        base_channels: int = 64,
        cot_stages: Sequence[int] = (0, 1, 2, 3),
        context: str = 'full',
        drop_path_rate: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            self._stage_channels(base_channels),
            **kwargs,
        )
        name = type(self).__name__
        self.depths = resolve_depth(name, depth, self.arch_settings)
        self.cot_stages = self._resolve_cot_stages(cot_stages)
        self.context = context
        self.stem_channels = stem_channels
        self.base_channels = base_channels
        self.stem = self._make_stem()
        rates = drop_path_rates(drop_path_rate, self.depths)
        for i in range(self.num_stages):
            blocks = (
                self._make_block(i, j, rate) for j, rate in enumerate(rates[i])
            )
            self.stages.append(Stage(*blocks, with_cp=self.with_cp))
        self._finish_init()

    @staticmethod
    def _resolve_cot_stages(cot_stages: Sequence[int]) -> tuple[int, ...]:
        stages = tuple(cot_stages)
        if any(i not in range(NUM_STAGES) for i in stages):
            raise ValueError(
                f'cot_stages must hold stages from 0 to {NUM_STAGES - 1}, '
                f'got {cot_stages!r}.'
            )
        return stages

    def _make_block(
        self, stage: int, index: int, drop_path: float
    ) -> Bottleneck:
        use_cot = (
            stage in self.cot_stages and index % self.cot_every[stage] == 0
        )
        parts = self._make_operator(stage, index, use_cot)
        return self._make_bottleneck(stage, index, drop_path, **parts)

    def _make_operator(
        self, stage: int, index: int, use_cot: bool
    ) -> dict[str, nn.Module]:
        """The operator of a block and the pooling around it.

        A CoT layer has stride 1: an average pool before it reduces resolution.
        """
        width = self._operator_width(stage)
        geometry = self._geometry(stage, index)
        if not use_cot:
            return dict(operator=self._make_conv(width, *geometry))
        layer = self._make_cot(width, self.dilations[stage])
        if index or self.strides[stage] == 1:
            return dict(operator=layer)
        return dict(operator=layer, pool_before=average_pool(3, *geometry))

    def _make_cot(self, width: int, dilation: int) -> CoTLayer:
        return self.layer_type(
            width,
            context=self.context,
            norm_cfg=self.norm_cfg,
            dilation=dilation,
        )


@register(MODELS)
class CoTNeXt(CoTNet):
    """The ResNeXt counterpart of CoTNet, 2 x 48d (Table 2).

    Its bottlenecks are 1.5 times as wide and hold :class:`CoXtLayer`.
    Arguments as in :class:`CoTNet`; ``base_channels`` must make 1.5 times
    each width a multiple of 16.
    """

    layer_type = CoXtLayer

    def _operator_width(self, stage: int) -> int:
        return super()._operator_width(stage) * 48 // 64 * 2


@register(MODELS)
class SECoTNetD(CoTNet):
    """SE-CoTNetD: ResNet-D with SE convolutions and CoT layers (Table 4).

    As released: a deep stem without max pooling (the first stage strides
    instead), average pooling in the shortcuts, CoT layers in every second
    block of the third stage and in all blocks of the fourth, SE convolutions
    elsewhere. The 152-layer network reduces resolution after its operators
    with a blur pool, the others inside or before them.

    Args:
        depth (int or Sequence[int]): 50, 101 or 152 as published, 14 or 26
            for small machines, or four numbers of blocks. Defaults to 50.
        stem_channels (int, optional): Width of the deep stem, which returns
            twice as many channels. Defaults to 64 for depths 101 and 152,
            else to 32.
        cot_stages (Sequence[int]): Stages that carry CoT layers; ``()`` is
            SE-ResNetD. Defaults to (2, 3).
        blur_pool (bool, optional): Reduce resolution with a blur pool.
            Defaults to True for depth 152, else to False.
        **kwargs: See :class:`CoTNet`.
    """

    arch_settings = {**CoTNet.arch_settings, 152: (3, 8, 36, 3)}
    cot_every = (1, 1, 2, 1)
    strides = (2, 2, 2, 2)

    def __init__(
        self,
        depth: Union[int, Sequence[int]] = 50,
        stem_channels: Optional[int] = None,
        cot_stages: Sequence[int] = (2, 3),
        blur_pool: Optional[bool] = None,
        **kwargs,
    ) -> None:
        if stem_channels is None:
            stem_channels = 64 if depth in (101, 152) else 32
        self.blur_pool = depth == 152 if blur_pool is None else blur_pool
        super().__init__(
            depth,
            stem_channels=stem_channels,
            cot_stages=cot_stages,
            **kwargs,
        )

    def _stem_out_channels(self) -> int:
        return 2 * self.stem_channels

    def _make_stem(self) -> nn.Sequential:
        channels = self.stem_channels
        widths = (self.in_channels, channels, channels, 2 * channels)
        layers = []
        for i, stride in enumerate((2, 1, 1)):
            layers += conv_norm(
                widths[i], widths[i + 1], 3, stride, self.norm_cfg,
                nn.ReLU(inplace=True),
            )  # fmt: skip
        return nn.Sequential(*layers)

    def _make_conv(self, width: int, stride: int, dilation: int) -> nn.Module:
        return SEConv(width, stride, dilation, self.norm_cfg)

    def _make_operator(
        self, stage: int, index: int, use_cot: bool
    ) -> dict[str, nn.Module]:
        if index or not self.blur_pool:
            return super()._make_operator(stage, index, use_cot)
        width = self._operator_width(stage)
        stride, dilation = self._geometry(stage, index)
        if use_cot:
            operator = self._make_cot(width, dilation)
        else:
            operator = self._make_conv(width, 1, dilation)
        pool = BlurPool(width, stride, dilation)
        return dict(operator=operator, pool_after=pool)

    def _make_shortcut(
        self, in_channels: int, out_channels: int, stride: int, dilation: int
    ) -> nn.Module:
        pool = average_pool(2, stride, dilation)
        conv = conv_norm(in_channels, out_channels, 1, 1, self.norm_cfg)
        return nn.Sequential(pool, *conv)
