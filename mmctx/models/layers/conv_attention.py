"""The conv-attention of CoaT and its two position encodings.

All three work on maps (N, C, H, W) and on one class token per image, which
stays apart from the map. Maps in the channels-last memory format pass without
being copied.
"""

from collections.abc import Mapping
from typing import NamedTuple, Optional

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from mmctx.ops.cpu_evaluation import is_cpu_evaluation

from .tokens import residual

#: Window sizes of the relative position encoding and their heads.
WINDOWS = {3: 2, 5: 3, 7: 3}
#: Numbers of float32 in a cache line.
ALIGNMENT = 16


def _check_heads(channels: int, num_heads: int) -> None:
    if num_heads < 1 or channels < 1 or channels % num_heads:
        raise ValueError(
            'channels must be a positive multiple of num_heads, got '
            f'{channels} channels and {num_heads} heads.'
        )


class ConvPositionEncoding(nn.Conv2d):
    """Position encoding: a depthwise convolution added to its input.

    Source: `Co-Scale Conv-Attentional Image Transformers
    <https://arxiv.org/abs/2104.06399>`_, Sec. 3.3.

    Args:
        channels (int): Channels C.
        kernel_size (int): Odd side of the window. Defaults to 3.

    Raises:
        ValueError: ``kernel_size`` is even.
    """

    def __init__(self, channels: int, kernel_size: int = 3) -> None:
        if kernel_size % 2 == 0:
            raise ValueError(
                f'kernel_size must be an odd int, got {kernel_size}.'
            )
        super().__init__(
            channels,
            channels,
            kernel_size,
            padding=kernel_size // 2,
            groups=channels,
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H, W)."""
        if not is_cpu_evaluation(x) or x.dtype.itemsize < 4:
            return residual(x, super().forward(x))
        # A one added to the middle of each window adds the input.
        weight = self.weight.clone()
        weight[:, :, self.padding[0], self.padding[1]] += 1
        return self._conv_forward(x, weight, self.bias)


class ConvRelativePositionEncoding(nn.Module):
    r"""Relative position encoding of conv-attention.

    .. math:: \hat{E} V = Q \circ \mathrm{DepthwiseConv}(V)

    The heads are shared out among windows of several sizes.

    Source: `Co-Scale Conv-Attentional Image Transformers
    <https://arxiv.org/abs/2104.06399>`_, Eq. 6 and 7.

    Args:
        channels (int): Channels C, those of head h are h * C / heads onward.
        num_heads (int): Number of heads. Defaults to 8.
        windows (Mapping[int, int]): Number of heads for each odd window
            size, in the order of the heads. Defaults to
            ``{3: 2, 5: 3, 7: 3}``.

    Raises:
        ValueError: The heads do not divide the channels, those of
            ``windows`` do not add up, or a window is even.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int = 8,
        windows: Optional[Mapping[int, int]] = None,
    ) -> None:
        super().__init__()
        windows = dict(windows or WINDOWS)
        _check_heads(channels, num_heads)
        if sum(windows.values()) != num_heads or any(
            size % 2 == 0 or heads < 1 for size, heads in windows.items()
        ):
            raise ValueError(
                'windows must map odd window sizes to numbers of heads that '
                f'add up to {num_heads}, got {windows}.'
            )
        width = channels // num_heads
        self.convs = nn.ModuleList(
            nn.Conv2d(
                heads * width,
                heads * width,
                size,
                padding=size // 2,
                groups=heads * width,
            )
            for size, heads in windows.items()
        )
        self.window = max(windows)

    def convolve(self, v: Tensor) -> Tensor:
        """The depthwise convolutions alone: (N, C, H, W) to the same."""
        if is_cpu_evaluation(v):
            return self._convolve_at_once(v)
        parts = v.split([conv.in_channels for conv in self.convs], dim=1)
        parts = [conv(part) for conv, part in zip(self.convs, parts)]
        return torch.cat(parts, dim=1)

    def _convolve_at_once(self, v: Tensor) -> Tensor:
        """Zeros make all windows as large as the largest.

        One convolution does for all heads, and nothing is split and joined:
        faster forward on a CPU, slower backward.
        """
        weights = [
            F.pad(conv.weight, [(self.window - conv.kernel_size[0]) // 2] * 4)
            for conv in self.convs
        ]
        return F.conv2d(
            v,
            torch.cat(weights),
            torch.cat([conv.bias for conv in self.convs]),
            padding=self.window // 2,
            groups=v.shape[1],
        )

    def forward(self, q: Tensor, v: Tensor) -> Tensor:
        """Encoding of queries and values.

        Args:
            q (Tensor): Queries (N, C, H, W), unscaled.
            v (Tensor): Values (N, C, H, W).

        Returns:
            Tensor: (N, C, H, W). A class token has no position: its own
            encoding is zero.
        """
        return q * self.convolve(v)


class Projected(NamedTuple):
    """Queries, keys or values.

    Attributes:
        map (Tensor): (N, C, H, W), contiguous.
        token (Tensor, optional): Class token, (N, C, 1).
    """

    map: Tensor
    token: Optional[Tensor] = None


class ConvAttention(nn.Module):
    r"""Factorised attention with a convolutional position encoding.

    .. math::
        \frac{Q}{\sqrt{C_h}} (\mathrm{softmax}(K)^T V) + \hat{E} V

    Softmax runs over all tokens, separately per channel; its product with
    the values is a matrix per head, so that the cost is linear in the number
    of tokens. Softmax and that product are taken in float32 or better.

    Queries, keys and values are held channel by channel, as (N, C, H * W):
    the projection to and from them transposes on the way, and heads, softmax
    and convolutions then need no copies.

    Source: `Co-Scale Conv-Attentional Image Transformers
    <https://arxiv.org/abs/2104.06399>`_, Eq. 4 to 8.

    Args:
        channels (int): Channels C of input and output.
        num_heads (int): Number of heads, which divides C. Defaults to 8.

    Raises:
        ValueError: The heads do not divide the channels.
    """

    def __init__(self, channels: int, num_heads: int = 8) -> None:
        super().__init__()
        _check_heads(channels, num_heads)
        self.num_heads = num_heads
        self.scale = (channels // num_heads) ** -0.5
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    def forward(
        self,
        x: Tensor,
        token: Optional[Tensor] = None,
        encoding: Optional[ConvRelativePositionEncoding] = None,
        with_map: bool = True,
    ) -> tuple[Optional[Tensor], Optional[Tensor]]:
        """Attention among the pixels of a map and a class token.

        Args:
            x (Tensor): (N, C, H, W).
            token (Tensor, optional): Class token (N, 1, C).
            encoding (ConvRelativePositionEncoding, optional): Given here and
                not held, since the layers of a scale share one.
            with_map (bool): Whether the pixels ask, too. Without, only the
                class token does, which must be there and has no encoding.
                Defaults to True.

        Returns:
            tuple: A map (N, C, H, W), channels last, or None without one,
            and a class token (N, 1, C), or None without one.

        Raises:
            ValueError: Neither is to ask.
        """
        if not with_map:
            if token is None:
                raise ValueError(
                    'with_map=False asks for the class token alone, got '
                    'none: pass a token (N, 1, C).'
                )
            return None, self._attend_from_token(x, token)
        return self.merge(self.attend(*self.project(x, token), encoding))

    def project(
        self, x: Tensor, token: Optional[Tensor] = None
    ) -> list[Projected]:
        """Queries, keys and values of a map and a class token."""
        weight = self.qkv.weight
        tokens = [None] * 3
        if token is not None:
            tokens = self._split(_project_token(token, weight))
        maps = self._split(_project_map(x, weight))
        maps = [m.unflatten(2, x.shape[2:]) for m in maps]
        return [Projected(*pair) for pair in zip(maps, tokens)]

    def _split(self, qkv: Tensor) -> list[Tensor]:
        """Queries, keys and values, with their biases, of (N, 3C, L).

        The same number added to a key channel of every token cancels in the
        softmax: keys need no bias.
        """
        bias = self.qkv.bias.unsqueeze(1).to(qkv.dtype).chunk(3)
        q, k, v = qkv.chunk(3, 1)
        return [q + bias[0], k, v + bias[2]]

    def _by_head(self, x: Tensor) -> Tensor:
        """(N, C, L) to (N * heads, C / heads, L)."""
        n, c, length = x.shape
        return x.reshape(n * self.num_heads, c // self.num_heads, length)

    def _softmax(self, keys: Tensor, token: Optional[Tensor]) -> Tensor:
        """Softmax of keys (N, C, L) and of the token's, in float32 or better.

        Returns:
            Tensor: (N * heads, C_h, L); with a token, its weight comes next,
            and zeros may follow.
        """
        dtype = _accurate(keys.dtype)
        if token is None:
            return self._by_head(keys.softmax(2, dtype=dtype))
        parts = [keys, token]
        if not is_cpu_evaluation(keys) or keys.dtype != dtype:
            joined = torch.cat(parts, dim=2)
            return self._by_head(joined.softmax(2, dtype=dtype))
        # Rows of whole cache lines, overwritten by their softmax.
        padding = -(keys.shape[2] + 1) % ALIGNMENT
        parts.append(keys.new_full((*keys.shape[:2], padding), -torch.inf))
        joined = torch.cat(parts, dim=2)
        return self._by_head(torch.softmax(joined, 2, out=joined))

    def _summarise(self, k: Projected, v: Projected) -> Tensor:
        """softmax(K)^T V, in float32: (N * heads, C_h, C_h)."""
        p = self._softmax(k.map.flatten(2), k.token)
        values = v.map.flatten(2)
        length = values.shape[2]
        values = self._by_head(values).to(p.dtype).transpose(1, 2)
        if k.token is None:
            return torch.bmm(p, values)
        token = self._by_head(v.token).to(p.dtype).transpose(1, 2)
        token = p[..., length : length + 1] * token
        return torch.baddbmm(token, p[..., :length], values)

    def _attend_from_token(self, x: Tensor, token: Tensor) -> Tensor:
        """What the class token alone finds: (N, 1, C).

        A single query makes one weight per token and head. Values are then
        projected from the weighted sums of all tokens, not from each token.
        """
        n, c = x.shape[:2]
        heads = self.num_heads
        w_q, w_k, w_v = self.qkv.weight.chunk(3)
        b_q, _, b_v = self.qkv.bias.chunk(3)
        q = F.linear(token, w_q, b_q).view(n * heads, 1, c // heads)
        p = self._softmax(_project_map(x, w_k), _project_token(token, w_k))
        with _without_autocast(x.device.type):
            q = self.scale * q.to(p.dtype)
            weights = torch.bmm(q, p).view(n, heads, -1)
            pixels = x.flatten(2).transpose(1, 2).to(p.dtype)
            length = pixels.shape[1]
            sums = torch.bmm(weights[..., :length], pixels)
            sums = sums + weights[..., length : length + 1] * token
        # (heads, N, C) by (heads, C, C_h).
        w_v = w_v.view(heads, -1, c).transpose(1, 2)
        values = torch.bmm(sums.transpose(0, 1).to(w_v.dtype), w_v)
        # The softmax of a channel adds up to 1, and so to 1 bias.
        bias = q.view(n, heads, -1).sum(2, keepdim=True) * b_v.view(heads, -1)
        values = values.transpose(0, 1) + bias.to(values.dtype)
        return self.proj(values.reshape(n, 1, c))

    def attend(
        self,
        q: Projected,
        k: Projected,
        v: Projected,
        encoding: Optional[ConvRelativePositionEncoding] = None,
    ) -> Projected:
        """Eq. 8 for given queries, keys and values, all of one size."""
        with _without_autocast(v.map.device.type):
            summary = self.scale * self._summarise(k, v)
        summary = summary.to(v.map.dtype).transpose(1, 2)
        out = torch.bmm(summary, self._by_head(q.map.flatten(2)))
        out = out.view(q.map.shape)
        if encoding is not None:
            out = _addcmul(out, q.map, encoding.convolve(v.map))
        token = None
        if q.token is not None:
            token = torch.bmm(summary, self._by_head(q.token))
            token = token.view(q.token.shape)
        return Projected(out, token)

    def merge(self, attended: Projected) -> tuple[Tensor, Optional[Tensor]]:
        """The output projection, as :meth:`forward` returns it."""
        x, token = attended
        n, _, h, w = x.shape
        weight = self.proj.weight.t().expand(n, -1, -1)
        x = x.flatten(2).transpose(1, 2)
        x = torch.baddbmm(self.proj.bias, x, weight)
        x = x.view(n, h, w, -1).permute(0, 3, 1, 2)
        if token is not None:
            token = self.proj(token.transpose(1, 2))
        return x, token


def _project_map(x: Tensor, weight: Tensor) -> Tensor:
    """(N, C, H, W) by (C_out, C) to (N, C_out, H * W)."""
    return torch.bmm(weight.expand(x.shape[0], -1, -1), x.flatten(2))


def _project_token(token: Tensor, weight: Tensor) -> Tensor:
    """(N, 1, C) by (C_out, C) to (N, C_out, 1).

    The weight comes first: a CPU multiplies a few columns by it in half the
    time that a few rows take.
    """
    return torch.mm(weight, token.squeeze(1).t()).t().unsqueeze(2)


def _accurate(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _without_autocast(device_type: str) -> torch.autocast:
    # There is no autocast for tensors without data.
    device_type = 'cpu' if device_type == 'meta' else device_type
    return torch.autocast(device_type, enabled=False)


def _addcmul(out: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """``out + a * b``, in the place of ``out`` where nothing needs it."""
    if torch.is_grad_enabled():
        return torch.addcmul(out, a, b)
    return out.addcmul_(a, b)
