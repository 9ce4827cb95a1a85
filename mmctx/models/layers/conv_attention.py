"""The conv-attention of CoaT and its two position encodings.

All three take feature maps (N, C, H, W) and are fastest with those in the
channels-last memory format. A class token, one per image, stays apart.
"""

from collections.abc import Sequence
from typing import Optional

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from mmctx.ops.conv_attention import cpu
from mmctx.ops.dispatch import cpu_variant

#: Heads of the relative position encoding by window size.
WINDOWS = {3: 2, 5: 3, 7: 3}


def _channels_per_head(channels: int, num_heads: int) -> int:
    if num_heads < 1 or channels < 1 or channels % num_heads:
        raise ValueError(
            'channels must be a positive multiple of num_heads, got '
            f'{channels} channels and {num_heads} heads.'
        )
    return channels // num_heads


def _depthwise(channels: int, window: int, dilation: int) -> nn.Conv2d:
    return nn.Conv2d(
        channels, channels, window, padding=window // 2 * dilation,
        dilation=dilation, groups=channels,
    )  # fmt: skip


def join(x: Tensor, token: Optional[Tensor]) -> Tensor:
    """(N, C, H, W) and (N, 1, C) to tokens (N, 1 + H * W, C)."""
    pixels = x.flatten(2).transpose(1, 2)
    return pixels if token is None else torch.cat((token, pixels), dim=1)


def split(
    tokens: Tensor, size: Sequence[int]
) -> tuple[Tensor, Optional[Tensor]]:
    """Undo :func:`join` for a feature map of ``size``."""
    has_token = tokens.shape[1] > size[0] * size[1]
    x = tokens[:, int(has_token) :].transpose(1, 2).unflatten(2, size)
    return x, tokens[:, :1] if has_token else None


class ConvPositionEncoding(nn.Conv2d):
    """Position encoding: a depthwise convolution added to its input.

    Source: `Co-Scale Conv-Attentional Image Transformers
    <https://arxiv.org/abs/2104.06399>`_, Sec. 3.3.

    Args:
        channels (int): Channels C.
        dilation (int): Of the convolution. Defaults to 1.
    """

    def __init__(self, channels: int, dilation: int = 1) -> None:
        super().__init__(
            channels, channels, 3, padding=dilation, dilation=dilation,
            groups=channels,
        )  # fmt: skip

    @cpu_variant(cpu.position_encoding)
    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H, W)."""
        return x + super().forward(x)


class ConvRelativePositionEncoding(nn.Module):
    r"""Relative position encoding of conv-attention.

    .. math:: \hat{E} V = Q \circ \mathrm{DepthwiseConv}(V)

    Of 8 heads, 2 see windows of 3 x 3, 3 of 5 x 5 and 3 of 7 x 7.

    Source: `Co-Scale Conv-Attentional Image Transformers
    <https://arxiv.org/abs/2104.06399>`_, Eq. 6 and 7.

    Args:
        channels (int): Channels C, those of head h from h * C / 8.
        dilation (int): Of the convolutions. Defaults to 1.

    Raises:
        ValueError: ``channels`` is not a multiple of 8.
    """

    def __init__(self, channels: int, dilation: int = 1) -> None:
        super().__init__()
        width = _channels_per_head(channels, sum(WINDOWS.values()))
        self.widths = tuple(heads * width for heads in WINDOWS.values())
        self.convs = nn.ModuleList(
            _depthwise(channels, window, dilation)
            for channels, window in zip(self.widths, WINDOWS)
        )

    @cpu_variant(cpu.relative_encoding, cpu.refuse_relative_encoding)
    def forward(self, q: Tensor, v: Tensor) -> Tensor:
        """Encoding of queries and values.

        Args:
            q (Tensor): Queries (N, C, H, W), unscaled.
            v (Tensor): Values (N, C, H, W).

        Returns:
            Tensor: (N, C, H, W). A class token has no position: its own
            encoding is zero.
        """
        parts = list(v.split(self.widths, dim=1))
        for i, conv in enumerate(self.convs):
            parts[i] = conv(parts[i])
        return q * torch.cat(parts, dim=1)


class ConvAttention(nn.Module):
    r"""Factorised attention with a convolutional position encoding.

    .. math::
        \frac{Q}{\sqrt{C_h}} (\mathrm{softmax}(K)^T V) + \hat{E} V

    Softmax runs over all tokens, separately per channel; its product with
    the values is a matrix per head, so that the cost is linear in the number
    of tokens. Both sum over tokens in float32 or better.

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
        width = _channels_per_head(channels, num_heads)
        self.heads = num_heads, width
        self.scale = width**-0.5
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)

    @cpu_variant(cpu.conv_attention, cpu.refuse_conv_attention)
    def forward(
        self,
        x: Tensor,
        token: Optional[Tensor] = None,
        encoding: Optional[nn.Module] = None,
    ) -> tuple[Tensor, Optional[Tensor]]:
        """Attention among the pixels of a feature map and a class token.

        Args:
            x (Tensor): (N, C, H, W).
            token (Tensor, optional): Class token (N, 1, C).
            encoding (nn.Module, optional): A
                :class:`ConvRelativePositionEncoding`, an argument because the
                layers of a scale share one.

        Returns:
            tuple: A feature map (N, C, H, W) and a class token (N, 1, C), or
            None without one.
        """
        size = x.shape[2:]
        q, k, v = self.qkv(join(x, token)).chunk(3, dim=2)
        return split(self.proj(self.attend(q, k, v, size, encoding)), size)

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        size: Sequence[int],
        encoding: Optional[nn.Module] = None,
    ) -> Tensor:
        """Eq. 8 for queries, keys and values (N, L, C) of joined tokens."""
        # Channel by channel, heads and convolutions need no further copies.
        q, k, v = q.mT.contiguous(), k.mT, v.mT.contiguous()
        summary = self.scale * self.summarise(k, v)
        out = (summary @ q.unflatten(1, self.heads)).flatten(1, 2)
        if encoding is not None:
            # A class token, in front, has no position.
            first = q.shape[2] - size[0] * size[1]
            maps = (
                q[..., first:].unflatten(2, size),
                v[..., first:].unflatten(2, size),
            )
            out = out + F.pad(encoding(*maps).flatten(2), (first, 0))
        return out.mT

    def summarise(self, k: Tensor, v: Tensor) -> Tensor:
        """V^T softmax(K) of (N, C, L): (N, heads, C / heads, C / heads).

        Operators that sum in float32, whatever they read. Autocast would have
        softmax read and write float32, too.
        """
        # Autocast does not know meta tensors.
        device = 'cpu' if k.is_meta else k.device.type
        with torch.autocast(device, enabled=False):
            weights = k.softmax(2).unflatten(1, self.heads)
            return v.unflatten(1, self.heads) @ weights.mT


class CrossScaleAttention(ConvAttention):
    """Conv-attention to the keys and values of several scales (Table 7)."""

    def forward(
        self,
        sources: Sequence[tuple[Tensor, Tensor, Tensor]],
        size: Sequence[int],
        encoding: Optional[nn.Module] = None,
    ) -> tuple[Tensor, Optional[Tensor]]:
        """As in :class:`ConvAttention`.

        Args:
            sources (Sequence): Queries, keys and values (N, L, C) of joined
                tokens, one triple per scale.
            size (Sequence[int]): H and W of the feature map.
            encoding (nn.Module, optional): As there.
        """
        out = 0
        for q, k, v in sources:
            out = out + self.attend(q, k, v, size, encoding)
        return split(self.proj(out), size)
