"""Context aggregation of Container: one layer for all its affinities."""

from collections.abc import Sequence
from typing import Optional

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from mmctx.ops import attention, norm_conv, pointwise

DYNAMIC = ('attention', 'none')
STATIC = ('conv', 'mlp', 'mlp_lr', 'dense_conv', 'none')
MIXING = ('sigmoid', 'scalars')


class KernelAffinity(nn.Conv2d):
    """Static affinity of a convolution: a kernel around every pixel.

    Source: `Container: Context Aggregation Network
    <https://arxiv.org/abs/2106.01401>`_, Eq. 5, in two dimensions.

    Args:
        channels (int): Channels C.
        num_heads (int): Number of kernels: C for a depthwise convolution;
            fewer are shared by C / heads channels each.
        kernel_size (int): Odd side of the kernels.
        dilation (int): Of the kernels. Defaults to 1.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        kernel_size: int,
        dilation: int = 1,
    ) -> None:
        super().__init__(
            num_heads,
            num_heads,
            kernel_size,
            padding=kernel_size // 2 * dilation,
            dilation=dilation,
            groups=num_heads,
        )
        self.sharers = channels // num_heads

    def forward(self, v: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H, W)."""
        if self.sharers == 1:
            return super().forward(v)
        weight = self.weight.repeat_interleave(self.sharers, 0)
        bias = self.bias.repeat_interleave(self.sharers)
        return F.conv2d(
            v, weight, bias, 1, self.padding, self.dilation, v.shape[1]
        )


class TableAffinity(nn.Module):
    """Static affinity of a transposed MLP: a table over pairs of pixels.

    A table is defined on a grid of H_0 x W_0 pixels. For feature maps of other
    sizes it is interpolated: A' = U A D, where D resamples the feature map to
    the grid and U the result back (bilinear, antialiased). Rows keep their
    sum, and A' is never formed.

    Source: `Container: Context Aggregation Network
    <https://arxiv.org/abs/2106.01401>`_, Eq. 6 and Sec. 4.1.

    Args:
        num_heads (int): Number of tables, each for C / heads channels.
        size (Sequence[int]): H_0 and W_0.
        rank (int, optional): Factor each table into two of this inner
            dimension. Defaults to None: one full table.
    """

    def __init__(
        self, num_heads: int, size: Sequence[int], rank: Optional[int] = None
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.size = tuple(size)
        n = self.size[0] * self.size[1]
        shapes = [(n, n)] if rank is None else [(rank, n), (n, rank)]
        #: Applied in this order.
        self.factors = nn.ParameterList(
            torch.empty(num_heads, *shape) for shape in shapes
        )
        for factor in self.factors:
            # As PyTorch initialises a linear layer.
            bound = factor.shape[2] ** -0.5
            nn.init.uniform_(factor, -bound, bound)

    def forward(self, v: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H, W)."""
        size = tuple(v.shape[2:])
        if size == self.size:
            return self._aggregate(v)
        return _resample(self._aggregate(_resample(v, self.size)), size)

    def _aggregate(self, v: Tensor) -> Tensor:
        n, c, h, w = v.shape
        heads = v.permute(0, 2, 3, 1).reshape(
            n, h * w, self.num_heads, c // self.num_heads
        )
        for factor in self.factors:
            heads = torch.einsum('mij,njmd->nimd', factor, heads)
        return heads.reshape(n, h, w, c).permute(0, 3, 1, 2)


def _resample(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear; an axis that shrinks is filtered first."""
    rows, columns = (
        _resampling_matrix(old, new, x) for old, new in zip(x.shape[2:], size)
    )
    x = torch.einsum('ih,nchw,jw->ncij', rows, x, columns)
    return x.contiguous(memory_format=torch.channels_last)


def _resampling_matrix(old: int, new: int, like: Tensor) -> Tensor:
    """Weights (new, old) of a triangle around each new pixel's centre."""
    step = old / new
    options = dict(
        device=like.device,
        dtype=torch.promote_types(like.dtype, torch.float32),
    )
    centres = (torch.arange(new, **options) + 0.5) * step - 0.5
    pixels = torch.arange(old, **options)
    distances = (pixels - centres.unsqueeze(1)).abs() / max(step, 1)
    weights = (1 - distances).clamp_min(0)
    return (weights / weights.sum(1, keepdim=True)).to(like.dtype)


class ContextAggregation(nn.Module):
    r"""Multi-head context aggregation with static and dynamic affinities.

    .. math::
        \mathrm{Concat}_m((\alpha A_m(X) + \beta A_m) V_m) W_1, \quad
        V = X W_2

    The dynamic affinity A(X) is that of self-attention (Eq. 4); the static
    one A is a convolution (Eq. 5) or a transposed MLP (Eq. 6). Both work on
    the same values V, neither is formed unless needed, and nothing non-linear
    follows them. The residual connection is the caller's.

    Rows of Table 2, for C channels:

    ==============  ===========  ==========  ============  ===========
    row             dynamic      static      static_heads  kernel_size
    ==============  ===========  ==========  ============  ===========
    H-DeiT-S        'attention'  'none'
    Conv-3          'none'       dense_conv  1             3
    Group Conv-3    'none'       dense_conv  8             3
    DW-3            'none'       'conv'      C             3
    MH-DW-3         'none'       'conv'      C / 32        3
    MLP             'none'       'mlp'       1
    MLP-LR          'none'       'mlp_lr'    1
    MH-MLP-LR       'none'       'mlp_lr'    C / 32
    Container       'attention'  'conv'      C             5
    Container-PAM   'attention'  'mlp'       1
    ==============  ===========  ==========  ============  ===========

    Source: `Container: Context Aggregation Network
    <https://arxiv.org/abs/2106.01401>`_, Eq. 2 to 8, Sec. 3.3.

    Args:
        channels (int): Channels C of input and output.
        num_heads (int): Heads M of the attention. Defaults to 1.
        dynamic (str): 'attention' or 'none'. Defaults to 'attention'.
        static (str): 'conv', 'mlp', 'mlp_lr' (low rank) or 'none';
            'dense_conv' is the baseline that also mixes channels. Defaults to
            'conv'.
        static_heads (int, optional): Number of static affinities, each for C /
            static_heads channels; for 'dense_conv' the groups. Defaults to C
            for 'conv', else to 1.
        kernel_size (int): Odd side of the kernels of 'conv' and
            'dense_conv'. Defaults to 5.
        size (Sequence[int], optional): Height and width of the feature map
            to which the tables of 'mlp' and 'mlp_lr' belong; see
            :class:`TableAffinity` for other sizes.
        rank (int, optional): Inner dimension of 'mlp_lr'.
        mixing (str): Weights of the two affinities: 'sigmoid' learns w with
            alpha = sigmoid(w) and beta = 1 - alpha, as released; 'scalars'
            learns alpha and beta, as in the paper; both start at 1/2. A
            single affinity has weight 1. Defaults to 'sigmoid'.
        norm (nn.Module, optional): A norm of the input.
        dilation (int): Of the kernels. Defaults to 1.

    Raises:
        ValueError: An argument is invalid, or heads do not divide the
            channels.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int = 1,
        dynamic: str = 'attention',
        static: str = 'conv',
        static_heads: Optional[int] = None,
        kernel_size: int = 5,
        size: Optional[Sequence[int]] = None,
        rank: Optional[int] = None,
        mixing: str = 'sigmoid',
        norm: Optional[nn.Module] = None,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        _check_choice('dynamic', dynamic, DYNAMIC)
        _check_choice('static', static, STATIC)
        _check_choice('mixing', mixing, MIXING)
        if dynamic == static == 'none':
            raise ValueError(
                'ContextAggregation needs a dynamic or a static affinity, got '
                "'none' for both."
            )
        self.channels = channels
        self.num_heads = num_heads
        self.mixing = mixing
        self.norm = norm
        self.has_dynamic = dynamic != 'none'
        if self.has_dynamic:
            _check_heads('num_heads', num_heads, channels)
        # Queries and keys, where there is attention, then values.
        self.project_in = nn.Conv2d(
            channels, channels * (3 if self.has_dynamic else 1), 1
        )
        self.static = _build_static(
            static, channels, static_heads, kernel_size, size, rank, dilation
        )
        self.mixing_weight = None
        if self.has_dynamic and self.static is not None:
            start = torch.tensor([0.0] if mixing == 'sigmoid' else [0.5, 0.5])
            self.mixing_weight = nn.Parameter(start)
        self.project_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same, channels last."""
        x = x.contiguous(memory_format=torch.channels_last)
        parts = (self.channels,) * (3 if self.has_dynamic else 1)
        *query_key, v = norm_conv(x, self.norm, self.project_in, parts)
        dynamic = self._attend(*query_key, v) if self.has_dynamic else None
        # The values are released here, where memory peaks.
        v = None if self.static is None else self.static(v)
        return pointwise(self._mix(dynamic, v), self.project_out)

    def _attend(self, *query_key_value: Tensor) -> Tensor:
        """Eq. 4 applied to the values."""
        n, c, h, w = query_key_value[0].shape
        shape = (n, h * w, self.num_heads, c // self.num_heads)
        heads = (
            x.permute(0, 2, 3, 1).reshape(shape).transpose(1, 2)
            for x in query_key_value
        )
        out = attention(*heads).transpose(1, 2).reshape(n, h, w, c)
        return out.permute(0, 3, 1, 2)

    def _mix(
        self, dynamic: Optional[Tensor], static: Optional[Tensor]
    ) -> Tensor:
        """Eq. 7, of affinities already applied to V."""
        if self.mixing_weight is None:
            return static if dynamic is None else dynamic
        if self.mixing == 'sigmoid':
            alpha = self.mixing_weight.sigmoid().to(static.dtype)
            return torch.lerp(static, dynamic, alpha)
        alpha, beta = self.mixing_weight.to(static.dtype)
        return alpha * dynamic + beta * static


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f'{name} must be one of {choices}, got {value!r}.')


def _check_heads(name: str, heads: int, channels: int) -> None:
    if heads < 1 or channels % heads:
        raise ValueError(
            f'{name} must divide the {channels} channels, got {heads!r}.'
        )


def _build_static(
    kind: str,
    channels: int,
    heads: Optional[int],
    kernel_size: int,
    size: Optional[Sequence[int]],
    rank: Optional[int],
    dilation: int,
) -> Optional[nn.Module]:
    if kind == 'none':
        return None
    if heads is None:
        heads = channels if kind == 'conv' else 1
    _check_heads('static_heads', heads, channels)
    if kind in ('mlp', 'mlp_lr'):
        if size is None or (kind == 'mlp_lr') != (rank is not None):
            raise ValueError(
                f'static={kind!r} needs the size of the feature map, and '
                f"'mlp_lr' also a rank; got size={size!r} and "
                f'rank={rank!r}.'
            )
        return TableAffinity(heads, size, rank)
    if kernel_size % 2 == 0:
        raise ValueError(f'kernel_size must be an odd int, got {kernel_size}.')
    if kind == 'conv':
        return KernelAffinity(channels, heads, kernel_size, dilation)
    return nn.Conv2d(
        channels, channels, kernel_size,
        padding=kernel_size // 2 * dilation, dilation=dilation, groups=heads,
    )  # fmt: skip
