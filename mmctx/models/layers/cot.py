"""The contextual transformer (CoT) operator of CoTNet."""

from typing import Optional

import torch
import torch.nn as nn
from mmcv.cnn import build_norm_layer
from mmengine.registry import MODELS
from torch import Tensor

from mmctx.ops import dynamic_context
from mmctx.registry import register

from .bottleneck import ConvNorm
from .norms import VectorSequential

CONTEXTS = ('full', 'static', 'dynamic', 'linear')


class SelectiveFusion(nn.Module):
    """Channel-wise convex mix of the dynamic and the static context.

    A bottleneck MLP reads the global mean of both contexts and gives each
    channel two logits; their softmax mixes the contexts (Sec. 3.2, "fusion";
    the released code makes it a selective-kernel unit).

    Args:
        channels (int): Channels D of either context.
        norm_cfg (dict): Norm of the hidden layer.
    """

    def __init__(self, channels: int, norm_cfg: dict) -> None:
        super().__init__()
        hidden = max(channels // 2, 32)
        self.mlp = VectorSequential(
            nn.Conv2d(channels, hidden, 1),
            build_norm_layer(norm_cfg, hidden)[1],
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, 2 * channels, 1),
        )

    def forward(self, dynamic: Tensor, static: Tensor) -> Tensor:
        """Mix two feature maps (N, D, H, W) into one."""
        squeezed = dynamic.mean((2, 3), keepdim=True)
        squeezed = squeezed + static.mean((2, 3), keepdim=True)
        # Logit 2c belongs to the dynamic, 2c + 1 to the static context of
        # channel c. A softmax over two is the sigmoid of their difference,
        # and a convex mix of two is one `lerp` instead of three passes.
        logits = self.mlp(squeezed).unflatten(1, (-1, 2))
        share = (logits[:, :, 0] - logits[:, :, 1]).sigmoid()
        return torch.lerp(static, dynamic, share.to(static.dtype))


class CoTLayer(nn.Module):
    r"""Contextual transformer layer: a stand-in for a 3 x 3 convolution.

    A grouped convolution of the keys gives the *static context*
    :math:`K^1`; from :math:`[Q, K^1]` two 1 x 1 convolutions predict a
    k x k attention matrix per pixel (Eq. 4), which aggregates the values
    around the pixel into the *dynamic context* :math:`K^2` (Eq. 5); the
    output fuses both. Eight channels share an attention matrix.

    The released code adds to the paper: a group norm over the attention
    matrix (no softmax), batch norm on the values, batch norm and SiLU on
    the dynamic context.

    Source: `Contextual Transformer Networks for Visual Recognition
    <https://arxiv.org/abs/2107.12292>`_, Sec. 3.2, Fig. 2 (b).

    Args:
        channels (int): Channels D of input and output, a multiple of 8.
        kernel_size (int): Odd side k of the neighbourhood. Defaults to 3.
        context (str): What to return (Table 5): ``'full'`` (selective
            fusion), ``'static'``, ``'dynamic'``, or ``'linear'`` (sum of
            both). Defaults to 'full'.
        norm_cfg (dict): Norm layers other than the attention's group norm.
            Defaults to ``dict(type='BN')``.
        dilation (int): Distance of neighbouring pixels of the neighbourhood,
            for both contexts. Defaults to 1.

    Raises:
        ValueError: ``channels``, ``kernel_size`` or ``context`` is not one
            of the above.
    """

    #: Channels that share one attention matrix.
    SHARE = 8
    #: Groups of the 1 x 1 convolutions; more than one in CoTNeXt.
    GROUPS = 1
    #: Groups of the convolution that makes the static context.
    KEY_GROUPS = 4

    def __init__(
        self,
        channels: int,
        kernel_size: int = 3,
        context: str = 'full',
        norm_cfg: Optional[dict] = None,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        self._check(channels, kernel_size, context)
        norm_cfg = norm_cfg or dict(type='BN')
        self.channels = channels
        self.kernel_size = kernel_size
        self.dilation = dilation
        self.context = context

        def norm(width):
            return build_norm_layer(norm_cfg, width)[1]

        self.static_context = nn.Sequential(
            nn.Conv2d(
                channels,
                channels,
                kernel_size,
                padding=kernel_size // 2 * dilation,
                dilation=dilation,
                groups=self.KEY_GROUPS,
                bias=False,
            ),
            norm(channels),
            nn.ReLU(inplace=True),
        )
        if context == 'static':
            return
        weight_channels = channels // self.SHARE
        taps = weight_channels * kernel_size**2
        hidden = channels // 2
        self.attention = ConvNorm(
            nn.Conv2d(2 * channels, hidden, 1, groups=self.GROUPS, bias=False),
            norm(hidden),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, taps, 1, groups=self.GROUPS),
            nn.GroupNorm(weight_channels, taps),
        )
        self.value = ConvNorm(
            nn.Conv2d(channels, channels, 1, groups=self.GROUPS, bias=False),
            norm(channels),
        )
        self.dynamic_norm = norm(channels)
        self.act = nn.SiLU(inplace=True)
        if context == 'full':
            self.fusion = SelectiveFusion(channels, norm_cfg)

    def _check(self, channels: int, kernel_size: int, context: str) -> None:
        multiple = self.SHARE * self.GROUPS
        if channels < 1 or channels % multiple:
            raise ValueError(
                f'{type(self).__name__} needs channels that are a positive '
                f'multiple of {multiple}, got {channels}.'
            )
        if kernel_size < 3 or kernel_size % 2 == 0:
            raise ValueError(
                f'{type(self).__name__} needs an odd kernel_size of 3 or '
                f'more, got {kernel_size}.'
            )
        if context not in CONTEXTS:
            raise ValueError(
                f'context must be one of {CONTEXTS}, got {context!r}.'
            )

    def _dynamic_context(self, x: Tensor, static: Tensor) -> Tensor:
        """Eq. 4 and 5: (N, D, H, W)."""
        return dynamic_context(
            x,
            static,
            self.attention,
            self.value,
            self.dynamic_norm,
            self.act,
            self.kernel_size,
            self.dilation,
            heads=self.GROUPS,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Context of every pixel.

        Args:
            x (Tensor): (N, D, H, W).

        Returns:
            Tensor: (N, D, H, W), without norm or activation after it.
        """
        static = self.static_context(x)
        if self.context == 'static':
            return static
        dynamic = self._dynamic_context(x, static)
        if self.context == 'dynamic':
            return dynamic
        if self.context == 'linear':
            return dynamic + static
        return self.fusion(dynamic, static)


class CoXtLayer(CoTLayer):
    """The CoT layer of CoTNeXt: its 1 x 1 convolutions have two groups.

    Query and key channels are interleaved, so that each group of the first
    convolution sees half of both; the static context has eight groups, the
    fusion none (Table 2 and the released code). Arguments as in
    :class:`CoTLayer`, ``channels`` a multiple of 16.
    """

    GROUPS = 2
    KEY_GROUPS = 8


class _CoTConv2d(nn.Sequential):
    """A CoT layer with the attributes that mmcv reads from a convolution."""

    transposed = False
    output_padding = (0, 0)

    def __init__(
        self, layer: CoTLayer, stride: int, padding: int, groups: int
    ) -> None:
        super().__init__()
        if stride == 2:
            # Where the published blocks reduce resolution.
            self.add_module('pool', nn.AvgPool2d(3, stride=2, padding=1))
        self.add_module('cot', layer)
        self.in_channels = self.out_channels = layer.channels
        self.kernel_size = (layer.kernel_size,) * 2
        self.stride = (stride,) * 2
        self.padding = (padding,) * 2
        self.dilation = (1, 1)
        self.groups = groups


def _as_int(value) -> int:
    """A side length given as an int or as a pair of equal ints, else -1."""
    sides = {value} if isinstance(value, int) else set(value)
    return sides.pop() if len(sides) == 1 else -1


def _build_cot_conv(
    layer_type, in_channels, out_channels, kernel_size, stride=1, padding=0,
    dilation=1, groups=1, bias=True, context='full', norm_cfg=None, **kwargs,
):  # fmt: skip
    k, s = _as_int(kernel_size), _as_int(stride)
    replaceable = (
        in_channels == out_channels
        and in_channels % (layer_type.SHARE * layer_type.GROUPS) == 0
        and k >= 3
        and k % 2 == 1
        and s in (1, 2)
        and _as_int(padding) == k // 2
        and _as_int(dilation) == 1
        and groups == 1
    )
    if not replaceable:
        return nn.Conv2d(
            in_channels, out_channels, kernel_size, stride, padding, dilation,
            groups, bias, **kwargs,
        )  # fmt: skip
    layer = layer_type(in_channels, k, context, norm_cfg)
    return _CoTConv2d(layer, s, k // 2, groups)


@register(MODELS, 'CoT')
def build_cot_conv(*args, **kwargs) -> nn.Module:
    """Build ``conv_cfg=dict(type='CoT')`` in any mmcv-style network.

    Takes the arguments of ``nn.Conv2d``, and ``context`` and ``norm_cfg`` of
    :class:`CoTLayer`. A convolution that CoT can stand for (square odd
    kernel of 3 or more, equal input and output channels divisible by 8,
    "same" padding, stride 1 or 2, no dilation, no groups) becomes a CoT
    layer, with an average pool before it where the stride is 2; every other
    one (1 x 1, stem, transitions) stays an ordinary convolution, as in
    CoTNet itself.
    """
    return _build_cot_conv(CoTLayer, *args, **kwargs)


@register(MODELS, 'CoXt')
def build_coxt_conv(*args, **kwargs) -> nn.Module:
    """As :func:`build_cot_conv`, with the layer of CoTNeXt.

    Channels must be divisible by 16.
    """
    return _build_cot_conv(CoXtLayer, *args, **kwargs)
