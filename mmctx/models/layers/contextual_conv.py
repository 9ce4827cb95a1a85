"""The contextual convolution of Contextual CNN."""

from typing import Optional, Union

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor

from mmctx.models.layers.norms import (
    apply_vector_norm,
    build_norm,
    build_vector_norm,
)
from mmctx.models.layers.pooling import global_mean
from mmctx.ops import context_projection, modulated_deform_conv
from mmctx.ops.precision import (
    cast_by_autocast,
    dtype_without_autocast,
    without_autocast,
)
from mmctx.registry import register


def hidden_channels(channels: int, kernel_size: int) -> int:
    """Width of the predictors: C / 4 for 3 x 3, C / 16 for 7 x 7."""
    return channels // (4 * max(1, (kernel_size // 3) ** 2))


def is_depthwise(conv: nn.Conv2d) -> bool:
    return conv.groups == conv.in_channels == conv.out_channels


# mmengine's initialisers select a layer by the names of its class and direct
# bases: an intermediate class hides layers that must start at zero.
class _Conv2d(nn.Conv2d):
    pass


class _Linear(nn.Linear):
    pass


class ZeroConv2d(_Conv2d):
    """A convolution that starts at zero, also in OpenMMLab networks."""

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


class ZeroLinear(_Linear):
    """A linear layer that starts at zero, also in OpenMMLab networks."""

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


class SamplingPredictor(nn.Module):
    """Sampling offsets, and modulation masks, from features and context.

    A 1 x 1 convolution of the context (the same at every pixel) and the
    features, norm, ReLU, and a K x K convolution with the geometry of the
    modulated one. The last layer starts at zero.

    Source: `Contextual Convolutional Networks
    <https://openreview.net/forum?id=PldynS56bN>`_, Sec. 3.3, Fig. 3 (b);
    the mask and the dense last convolution are from the released code.

    Args:
        conv (nn.Conv2d): The convolution that is modulated.
        context_channels (int): Channels of the context, 0 for none.
        mask (bool): Predict a modulation mask as well.
        norm_cfg (dict): A norm of feature maps.
    """

    def __init__(
        self,
        conv: nn.Conv2d,
        context_channels: int,
        mask: bool,
        norm_cfg: dict,
    ) -> None:
        super().__init__()
        side = conv.kernel_size[0]
        hidden = hidden_channels(conv.in_channels, side)
        self.context_channels = context_channels
        self.taps = side**2
        self.mask = mask
        self.reduce = nn.Conv2d(conv.in_channels + context_channels, hidden, 1)
        self.norm = build_norm(norm_cfg, hidden)
        self.predict = ZeroConv2d(
            hidden,
            (3 if mask else 2) * self.taps,
            conv.kernel_size,
            conv.stride,
            conv.padding,
            conv.dilation,
        )

    def forward(self, x: Tensor, context: Optional[Tensor] = None) -> Tensor:
        """Offsets and logits of the mask, in float32 under autocast, whose
        dtype would place samples on a coarse grid.

        Args:
            x (Tensor): (N, C, H, W).
            context (Tensor, optional): (N, C_ctx).

        Returns:
            Tensor: (N, 2 K K or 3 K K, H', W'): for each tap, row by row,
            the offsets down and to the right in units of the dilation; then,
            with a mask, its logit for each tap.
        """
        hidden = context_projection(x, context, self.reduce)
        hidden = F.relu(self.norm(hidden)).to(dtype_without_autocast(x))
        with without_autocast(x):
            return self.predict(hidden)


class WeightPredictor(nn.Module):
    """Weight offsets from the features' mean and the context.

    Two linear layers with norm and ReLU between. The last one starts at
    zero.

    Source: as :class:`SamplingPredictor`.

    Args:
        conv (nn.Conv2d): The convolution that is modulated.
        context_channels (int): Channels of the context, 0 for none.
        norm_cfg (dict): A norm of feature maps; the epsilon of layer norm is
            PyTorch's.

    Attributes:
        shape (tuple[int]): Shape of the offsets of one image. Every weight
            of a depth-wise convolution has its own; else the output channels
            share them, (1, C / groups, K, K).
    """

    def __init__(
        self, conv: nn.Conv2d, context_channels: int, norm_cfg: dict
    ) -> None:
        super().__init__()
        shape = conv.weight.shape
        self.shape = tuple(shape if is_depthwise(conv) else (1, *shape[1:]))
        hidden = hidden_channels(conv.in_channels, conv.kernel_size[0])
        self.fc1 = nn.Linear(conv.in_channels + context_channels, hidden)
        self.norm = build_vector_norm(norm_cfg, hidden)
        self.fc2 = ZeroLinear(hidden, self.shape[0] * shape[1:].numel())

    def forward(
        self, x: Tensor, context: Optional[Tensor], valid: Optional[Tensor]
    ) -> Tensor:
        """(N, C, H, W), (N, C_ctx) and valid sizes to (N, offsets)."""
        mean = global_mean(x, valid)
        if context is not None:
            mean = torch.cat((context.to(mean.dtype), mean), dim=1)
        return self.fc2(F.relu(apply_vector_norm(self.norm, self.fc1(mean))))


class ContextualConv2d(nn.Conv2d):
    r"""Convolution whose weights and sampling locations follow a context.

    .. math:: y(p) = \sum_k (w(k) + \Delta w(k)) m(k) x(p + g(k) + \Delta p(k))

    (Eq. 4, and the modulation mask m of the released code). A dilation spreads
    the grid g and the offsets alike. The context is one
    vector per image that stands for the classes likely so far. Without one,
    only the features count.

    Initially the offsets are zero and the mask is 1/2, so that with a mask the
    layer computes half the convolution of its own weights.

    Without offsets, a context is an extra input to an ordinary convolution
    (rows a2 and b1 of Tables 4 and 5): broadcast over the feature map,
    concatenated with the features and read by its own 1 x 1 kernels. The
    paper's number of parameters leaves no room for K x K kernels.

    Source: `Contextual Convolutional Networks
    <https://openreview.net/forum?id=PldynS56bN>`_, Sec. 3.3, Eq. 4; released
    code: https://github.com/aliyun/Contextual-Convolutional-Networks.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation,
            groups, bias: As in ``nn.Conv2d``; the kernel is square and
            padded with zeros, by a number of pixels.
        context_channels (int): Channels of the context, 0 for none.
            Defaults to 0.
        weight_offsets (bool): Modulate the weights. Defaults to True.
        sampling_offsets (bool): Modulate the sampling locations. Defaults to
            True.
        mask (bool): Also modulate the samples; requires ``sampling_offsets``.
            Defaults to True.
        norm_cfg (dict, optional): Norms of the predictors. Defaults to
            ``dict(type='BN')``.

    Raises:
        ValueError: The kernel is not square, the padding is not a number,
            there are too few channels, or nothing is left to modulate.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Union[int, tuple[int, int]],
        stride: Union[int, tuple[int, int]] = 1,
        padding: Union[int, tuple[int, int]] = 0,
        dilation: Union[int, tuple[int, int]] = 1,
        groups: int = 1,
        bias: bool = True,
        context_channels: int = 0,
        weight_offsets: bool = True,
        sampling_offsets: bool = True,
        mask: bool = True,
        norm_cfg: Optional[dict] = None,
        **kwargs,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding,
            dilation, groups, bias, **kwargs,
        )  # fmt: skip
        self._check()
        norm_cfg = norm_cfg or dict(type='BN')
        self.context_channels = context_channels
        self.sampling_predictor = self.weight_predictor = None
        if sampling_offsets:
            self.sampling_predictor = SamplingPredictor(
                self, context_channels, mask, norm_cfg
            )
        if weight_offsets:
            self.weight_predictor = WeightPredictor(
                self, context_channels, norm_cfg
            )
        if not sampling_offsets and not weight_offsets:
            if not context_channels:
                raise ValueError(
                    'A contextual convolution without weight_offsets, '
                    'sampling_offsets and context_channels is an ordinary '
                    'one: use nn.Conv2d, or switch one of them on.'
                )
            self.context_weight = nn.Linear(
                context_channels, out_channels, bias=False
            )

    def _check(self) -> None:
        side = self.kernel_size[0]
        if self.kernel_size != (side, side) or isinstance(self.padding, str):
            raise ValueError(
                'A contextual convolution needs a square kernel and a number '
                f'as padding, got kernel_size={self.kernel_size} and '
                f'padding={self.padding!r}.'
            )
        if self.padding_mode != 'zeros':
            raise ValueError(
                'A contextual convolution samples zeros outside its input: '
                f"padding_mode must be 'zeros', got {self.padding_mode!r}."
            )
        if not hidden_channels(self.in_channels, side):
            raise ValueError(
                f'A contextual convolution with a kernel of {side} x {side} '
                f'needs {4 * max(1, (side // 3) ** 2)} input channels or '
                f'more, got {self.in_channels}.'
            )

    def forward(
        self,
        x: Tensor,
        context: Optional[Tensor] = None,
        valid: Optional[Tensor] = None,
    ) -> Tensor:
        """Convolve each image with its own weights and locations.

        Args:
            x (Tensor): (N, C_in, H, W), in any memory format.
            context (Tensor, optional): (N, context_channels).
            valid (Tensor, optional): Rows and columns (N, 2) of each
                feature map that are not padding. Defaults to all.

        Returns:
            Tensor: (N, C_out, H', W').

        Raises:
            ValueError: The context is missing or has the wrong shape.
        """
        self._check_context(x, context)
        x = cast_by_autocast(x)
        delta = None
        if self.weight_predictor is not None:
            delta = self.weight_predictor(x, context, valid)
            delta = delta.unflatten(1, self.weight_predictor.shape)
        if self.sampling_predictor is not None:
            return self._deformed(x, context, delta)
        if delta is not None:
            return self._reweighted(x, delta)
        return (
            super().forward(x) + self.context_weight(context)[..., None, None]
        )

    def _check_context(self, x: Tensor, context: Optional[Tensor]) -> None:
        shape = None if context is None else tuple(context.shape)
        expected = (x.shape[0], self.context_channels)
        expected = expected if self.context_channels else None
        if shape != expected:
            raise ValueError(
                f'This contextual convolution takes a context of shape '
                f'{expected}, got {shape}.'
            )

    def _deformed(
        self, x: Tensor, context: Optional[Tensor], delta: Optional[Tensor]
    ) -> Tensor:
        predictor = self.sampling_predictor
        raw = predictor(x, context)
        if predictor.mask:
            offset, mask = raw.split((2 * predictor.taps, predictor.taps), 1)
            mask = mask.sigmoid()
        else:
            offset, mask = raw, None
        if self.dilation != (1, 1):
            steps = zip((offset[:, ::2], offset[:, 1::2]), self.dilation)
            offset = torch.stack([o * d for o, d in steps], 2).flatten(1, 2)
        return modulated_deform_conv(
            x,
            offset,
            self.weight,
            delta,
            self.bias,
            mask,
            self.stride,
            self.padding,
            self.dilation,
        )

    def _reweighted(self, x: Tensor, delta: Tensor) -> Tensor:
        """Convolution with W + dW; linear in both."""
        if x.shape[0] == 0:
            return super().forward(x)
        if is_depthwise(self):
            bias = None if self.bias is None else self.bias.repeat(x.shape[0])
            return self._per_image(x, self.weight + delta, bias)
        # All output channels share dW: its share of the sum has one channel
        # per group.
        delta = delta.expand(-1, self.groups, -1, -1, -1)
        shared = self._per_image(x, delta)
        out = super().forward(x).unflatten(1, (self.groups, -1))
        return (out + shared[:, :, None]).flatten(1, 2)

    def _per_image(
        self, x: Tensor, weight: Tensor, bias: Optional[Tensor] = None
    ) -> Tensor:
        """Convolution of each image with its own (N, C_out, C/g, K, K)."""
        n, c, h, w = x.shape
        out = F.conv2d(
            x.reshape(1, n * c, h, w),
            weight.flatten(0, 1).to(x.dtype),
            bias if bias is None else bias.to(x.dtype),
            self.stride,
            self.padding,
            self.dilation,
            groups=n * self.groups,
        )
        return out.unflatten(1, (n, -1)).squeeze(0)


@register(MODELS, 'ContextualConv')
def build_contextual_conv(
    in_channels, out_channels, kernel_size, *args, **kwargs
) -> nn.Module:
    """Build ``conv_cfg=dict(type='ContextualConv')`` in any network.

    Takes the arguments of :class:`ContextualConv2d`. Such networks pass no
    context, so only the features count (row a3 of Table 4). Convolutions that
    cannot be contextual (1 x 1, oblong, or with too few channels, such as a
    stem's) stay ordinary.
    """
    sides = {kernel_size} if isinstance(kernel_size, int) else {*kernel_size}
    side = sides.pop()
    if not sides and side > 1 and hidden_channels(in_channels, side):
        return ContextualConv2d(
            in_channels, out_channels, kernel_size, *args, **kwargs
        )
    ours = ('context_channels', 'weight_offsets', 'sampling_offsets',
            'mask', 'norm_cfg')  # fmt: skip
    kwargs = {k: v for k, v in kwargs.items() if k not in ours}
    return nn.Conv2d(in_channels, out_channels, kernel_size, *args, **kwargs)
