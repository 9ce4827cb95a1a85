"""Contextual ConvNeXt."""

from typing import Optional, Union

import torch
import torch.nn as nn
from mmcv.cnn import build_norm_layer
from mmengine.registry import MODELS
from torch import Tensor

from mmctx.models.backbones.base import (
    STRIDES,
    PatchEmbedding,
    complete_patches,
)
from mmctx.models.backbones.contextual_cnn import ContextualCNN
from mmctx.models.layers import ContextualConv2d
from mmctx.models.layers.mlp import TokenMLP
from mmctx.models.layers.norms import HalfLayerNorm, build_norm
from mmctx.models.layers.pooling import halved
from mmctx.models.layers.stochastic_depth import StochasticDepth
from mmctx.ops import add_mlp
from mmctx.ops.precision import cast_by_autocast
from mmctx.registry import register


class Downsample(nn.Module):
    """Layer norm and a convolution that halves a feature map.

    Args:
        in_channels (int): Channels of the input.
        channels (int): Channels of the output.
        norm_cfg (dict): A layer norm.
        stride (int): 2, or 1 to keep the resolution.
        dilation (int): Dilation of the convolution.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        norm_cfg: dict,
        stride: int,
        dilation: int,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.dilation = dilation
        self.norm = build_norm(norm_cfg, in_channels)
        self.conv = nn.Conv2d(
            in_channels, channels, 2, stride, dilation=dilation
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) to (N, C, ceil(H / stride), ceil(W / stride))."""
        x = complete_patches(self.norm(x), 2, self.stride, self.dilation)
        return self.conv(x)


class ConvNeXtBlock(nn.Module):
    """Depth-wise convolution, layer norm and an MLP, residual.

    Args:
        conv (nn.Conv2d): The depth-wise convolution.
        contextual (bool): Whether it takes a context and valid sizes.
        norm_cfg (dict): A layer norm.
        layer_scale (float): Initial layer scale of the branch.
        drop_path (float): Probability of dropping the branch.
        downsample (Downsample, optional): Precedes the block.
    """

    def __init__(
        self,
        conv: nn.Conv2d,
        contextual: bool,
        norm_cfg: dict,
        layer_scale: float,
        drop_path: float,
        downsample: Optional[nn.Module] = None,
    ) -> None:
        super().__init__()
        channels = conv.out_channels
        self.contextual = contextual
        self.stride = 1 if downsample is None else downsample.stride
        self.downsample = downsample or nn.Identity()
        self.conv = conv
        self.norm = build_norm_layer(norm_cfg, channels)[1]
        self.mlp = TokenMLP(channels, 4 * channels)
        self.gamma = nn.Parameter(torch.full((channels,), layer_scale))
        self.drop_path = StochasticDepth(drop_path)

    def forward(
        self, x: Tensor, context: Optional[Tensor], valid: Optional[Tensor]
    ) -> Tensor:
        """(N, C_in, H, W), context and valid sizes to (N, C, H', W')."""
        x = self.downsample(x)
        if self.contextual:
            branch = self.conv(x, context, halved(valid, self.stride))
        else:
            branch = self.conv(x)
        keep = self.drop_path(x)
        scale = self.gamma if keep is None else self.gamma * keep
        if isinstance(self.norm, HalfLayerNorm):
            scale = cast_by_autocast(scale)  # else the sum would be float32
        x, branch = x.permute(0, 2, 3, 1), branch.permute(0, 2, 3, 1)
        x = add_mlp(x, self.mlp, self.norm, branch, scale)
        return x.permute(0, 3, 1, 2)


@register(MODELS)
class ContextualConvNeXt(ContextualCNN):
    """ConvNeXt with contextual depth-wise convolutions.

    There is no norm after the last stage: its score head has its own.

    Args:
        arch (str or dict): 'tiny', 'small' or 'base' as published, or a dict
            with ``depths`` and ``channels``, one value per stage in each.
            Defaults to 'tiny'.
        contextual_every (int): See :class:`ContextualCNN`. Defaults to 3.
        layer_scale_init_value (float): Initial layer scale of each branch.
            Defaults to 1e-6.
        norm_cfg (dict, optional): Layer norms of the blocks and of the
            feature maps in the predictors; those of vectors have PyTorch's
            own epsilon. Defaults to ``dict(type='LN', eps=1e-6)``.
        **kwargs: See :class:`ContextualCNN`.

    Example:
        >>> maps = ContextualConvNeXt('tiny')(torch.rand(2, 3, 224, 224))
        >>> [tuple(m.shape) for m in maps]
        [(2, 96, 56, 56), (2, 192, 28, 28), (2, 384, 14, 14), (2, 768, 7, 7)]
    """

    default_norm = dict(type='LN', eps=1e-6)
    arch_settings = {
        'tiny': dict(depths=(3, 3, 9, 3), channels=(96, 192, 384, 768)),
        'small': dict(depths=(3, 3, 27, 3), channels=(96, 192, 384, 768)),
        'base': dict(depths=(3, 3, 27, 3), channels=(128, 256, 512, 1024)),
    }

    def __init__(
        self,
        arch: Union[str, dict] = 'tiny',
        contextual_every: int = 3,
        layer_scale_init_value: float = 1e-6,
        **kwargs,
    ) -> None:
        arch = self._resolve_arch(arch, ('depths', 'channels'))
        self.channels = arch['channels']
        self.layer_scale_init_value = layer_scale_init_value
        super().__init__(
            self.channels,
            self.channels,
            self.channels,
            arch['depths'],
            contextual_every=contextual_every,
            **kwargs,
        )

    def _make_stem(self) -> nn.Module:
        return PatchEmbedding(
            self.in_channels,
            self.channels[0],
            STRIDES[0],
            self.norm_cfg,
            *self._entry(0),
        )

    def _make_block(
        self, stage: int, index: int, rate: float, conv_cfg: Optional[dict]
    ) -> nn.Module:
        channels, downsample = self.channels[stage], None
        if stage > 0 and index == 0:
            downsample = Downsample(
                self.channels[stage - 1],
                channels,
                self.norm_cfg,
                *self._entry(stage),
            )
        conv_type = nn.Conv2d if conv_cfg is None else ContextualConv2d
        dilation = self.dilations[stage]
        conv = conv_type(
            channels, channels, 7, padding=3 * dilation, dilation=dilation,
            groups=channels, **(conv_cfg or {}),
        )  # fmt: skip
        return ConvNeXtBlock(
            conv,
            conv_cfg is not None,
            self.norm_cfg,
            self.layer_scale_init_value,
            rate,
            downsample,
        )

    def _reset_parameters(self) -> None:
        for module in self._plain_modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        # Padding would be zeros, whose norms have a gradient of 1 / sqrt(eps),
        # one times the other.
        nn.init.trunc_normal_(self.stem.proj.bias, std=0.02)
