"""The patch-wise transformer encoder of ConTNet.

One copy cuts a map into windows of tokens (B, L, C), one puts the map
together again, and everything between needs no other layout.
"""

from collections.abc import Iterator
from typing import NamedTuple, Optional

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .tokens import SLICE, TokenMLP, residual, runs_in_slices

POSITIONS = ('none', '1d', '2d', '2d_image', 'relative')


class Windows(NamedTuple):
    """A rectangle of a map, and the equal windows that tile it.

    Attributes:
        top, left (int): Corner of the rectangle.
        rows, columns (int): Number of windows below and beside each other.
        height, width (int): Sides of each window.
    """

    top: int
    left: int
    rows: int
    columns: int
    height: int
    width: int

    def view(self, x: Tensor) -> Tensor:
        """The windows in a map: (N, H, W, C) to (N, rows, columns, h, w, C).

        Values that are written there are written into the map.
        """
        bottom = self.top + self.rows * self.height
        right = self.left + self.columns * self.width
        x = x[:, self.top : bottom, self.left : right]
        x = x.unflatten(1, (self.rows, self.height))
        return x.unflatten(3, (self.columns, self.width)).transpose(2, 3)

    def cut(self, x: Tensor) -> Tensor:
        """Map (N, H, W, C) to a copy of the windows, (N * number, L, C)."""
        x = self.view(x).clone(memory_format=torch.contiguous_format)
        return x.flatten(3, 4).flatten(0, 2)

    def join(self, x: Tensor) -> Tensor:
        """Windows (N * number, L, C) to the rectangle (N, H', W', C)."""
        x = self._apart(x).transpose(2, 3)
        return x.flatten(3, 4).flatten(1, 2)

    def write(self, x: Tensor, target: Tensor) -> None:
        """Windows (N * number, L, C) into a map (N, H, W, C)."""
        self.view(target).copy_(self._apart(x))

    def _apart(self, x: Tensor) -> Tensor:
        x = x.unflatten(1, (self.height, self.width))
        return x.unflatten(0, (-1, self.rows, self.columns))

    def bands(self, rows: int) -> Iterator['Windows']:
        """The same windows, up to so many rows of them at a time."""
        for first in range(0, self.rows, rows):
            yield self._replace(
                top=self.top + first * self.height,
                rows=min(rows, self.rows - first),
            )


def _divide(length: int, size: int) -> list[tuple[int, int, int]]:
    """Offset, number and size of the whole parts, then those of the rest."""
    count, rest = length // size, length % size
    parts = [(0, count, size)] if count else []
    return [*parts, (length - rest, 1, rest)] if rest else parts


def tile(height: int, width: int, patch_size: int) -> list[list[Windows]]:
    """Windows of a map from its upper left corner, cut off at its border.

    Returns:
        list[list[Windows]]: Up to two rows of up to two rectangles: whole
        windows, and those that the right and the bottom border cut off.
    """
    return [
        [
            Windows(top, left, rows, columns, h, w)
            for left, columns, w in _divide(width, patch_size)
        ]
        for top, rows, h in _divide(height, patch_size)
    ]


class PositionCode1d(nn.Module):
    """One learned vector per token of a window.

    Args:
        channels (int): Channels C.
        size (int): Side of the window.
    """

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.table = nn.Parameter(torch.zeros(size * size, channels))

    def forward(self, height: int, width: int) -> Tensor:
        """Codes (height, width, C) of a window, or of its upper left part."""
        return self.table.unflatten(0, (-1, self.size))[:height, :width]


class PositionCode2d(nn.Module):
    """A learned code of the row, beside one of the column.

    Args:
        channels (int): Channels C, an even number: the first half is the
            row's code.
        size (int): Side of the window.
    """

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.zeros(1, size, 1, channels // 2))
        self.columns = nn.Parameter(torch.zeros(1, 1, size, channels // 2))

    def forward(self, height: int, width: int) -> Tensor:
        """Codes (height, width, C) of a window, or of its upper left part."""
        return self._outer(self.rows[0, :height], self.columns[0, :, :width])

    @staticmethod
    def _outer(rows: Tensor, columns: Tensor) -> Tensor:
        height, width = len(rows), columns.shape[1]
        return torch.cat(
            (rows.expand(-1, width, -1), columns.expand(height, -1, -1)), 2
        )


class ImagePositionCode2d(PositionCode2d):
    """As :class:`PositionCode2d`, of a whole map and resized to its size."""

    def forward(self, height: int, width: int) -> Tensor:
        """Codes (height, width, C) of a map."""
        rows = self._resize(self.rows[0, :, 0], height)
        columns = self._resize(self.columns[0, 0], width)
        return self._outer(rows.unsqueeze(1), columns.unsqueeze(0))

    @staticmethod
    def _resize(table: Tensor, length: int) -> Tensor:
        if len(table) == length:
            return table
        table = table.t().unsqueeze(0)
        return F.interpolate(table, length, mode='linear')[0].t()


class PatchAttention(nn.Module):
    """Multi-head self-attention inside windows.

    Args:
        channels (int): Channels C.
        num_heads (int): Number of heads, which divides C.
        qkv_bias (bool): Bias of queries, keys and values. Defaults to True.
        drop_rate (float): Dropout of attention weights and of the result.
            Defaults to 0.
        window_size (int, optional): Side of the windows: add a learned bias
            for each head and each offset between two tokens to the logits.
            Defaults to None, no such bias.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        window_size: Optional[int] = None,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window_size = window_size
        if window_size is not None:
            offsets = (2 * window_size - 1) ** 2
            self.bias_table = nn.Parameter(torch.zeros(offsets, num_heads))
        self.qkv = nn.Linear(channels, 3 * channels, bias=qkv_bias)
        self.attn_drop = nn.Dropout(drop_rate)
        self.proj = nn.Linear(channels, channels)
        self.proj_drop = nn.Dropout(drop_rate)

    def relative_bias(self) -> Optional[Tensor]:
        """Biases (heads, P, P, P, P) by row and column of query and key.

        That of query (y, x) and key (y', x') is in row
        (y - y' + P - 1) * (2 P - 1) + (x - x' + P - 1) of the table.
        """
        if self.window_size is None:
            return None
        size = self.window_size
        table = self.bias_table.t().unflatten(1, (2 * size - 1, -1))
        # (heads, P - 1 - y', P - 1 - x', y, x)
        bias = table.unfold(1, size, 1).unfold(2, size, 1)
        return bias.permute(0, 3, 4, 1, 2).flip(3, 4)

    def forward(self, x: Tensor, bias: Optional[Tensor] = None) -> Tensor:
        """Attention among the tokens of each window.

        Args:
            x (Tensor): Windows of L tokens, (B, L, C).
            bias (Tensor, optional): Added to the logits, (heads, L, L).

        Returns:
            Tensor: (B, L, C).
        """
        qkv = self.qkv(x).unflatten(2, (3, self.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind()
        out = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=bias if bias is None else bias.to(q.dtype).unsqueeze(0),
            dropout_p=self.attn_drop.p if self.training else 0.0,
        )
        out = out.transpose(1, 2)
        if torch.onnx.is_in_onnx_export():
            # The exporter's attention lays out its result in another way.
            out = out.clone(memory_format=torch.contiguous_format)
        return self.proj_drop(self.proj(out.flatten(2)))


class PatchwiseTransformerEncoder(nn.Module):
    r"""The standard transformer encoder (STE) on the patches of a map.

    A map is cut into patches of P x P tokens from its upper left corner;
    each patch is a sequence of its own.

    .. math::
        t &= \mathrm{LN}(x + \mathrm{MHSA}(x)) \\
        y &= \mathrm{LN}(t + \mathrm{MLP}(t))

    with x the tokens plus their position code, or, with ``pre_norm``,
    :math:`t = x + \mathrm{MHSA}(\mathrm{LN}(x))` and
    :math:`y = t + \mathrm{MLP}(\mathrm{LN}(t))`.

    Where P does not divide the map, the paper speaks of "marginal padding"
    and of no mask. Masking is ours: by default no token attends to padding,
    and what attention with masked padding computes is computed without any,
    in windows that the border cuts off.

    Source: `ConTNet: Why not use convolution and transformer at the same
    time? <https://arxiv.org/abs/2104.13497>`_, Sec. 3.2, Eq. 4 to 8, Table 8.

    Args:
        channels (int): Channels C.
        patch_size (int): Side P of a patch.
        num_heads (int): Heads of the attention, which divide C. Defaults to
            1.
        feedforward_channels (int, optional): Hidden channels of the MLP.
            Defaults to 4 C.
        position (str): Position code: 'none', '1d' (a vector per token of
            the patch), '2d' (a code of the row, another one of the column of
            the patch, half of the channels each), '2d_image' (the same over
            the whole map, resized to its size) or 'relative' (a bias of the
            attention's logits). Defaults to '2d'.
        map_size (int, optional): Side of the map, for '2d_image': that of
            the tables.
        pre_norm (bool): Norm at the start of each branch instead of behind
            each sum. Defaults to False.
        qkv_bias (bool): Bias of queries, keys and values. Defaults to True.
        drop_rate (float): Dropout of attention weights and behind each
            linear layer but that of queries, keys and values. Defaults to 0.
        drop_path (float): Probability of dropping a branch of an image.
            Defaults to 0.
        pad_mask (bool): Keep padding out of the attention. False pads with
            zeros, which are tokens like all others. Defaults to True.

    Raises:
        ValueError: An argument is not one of the above.

    Example:
        >>> encoder = PatchwiseTransformerEncoder(64, 7)
        >>> encoder(torch.rand(2, 64, 20, 30)).shape
        torch.Size([2, 64, 20, 30])
    """

    def __init__(
        self,
        channels: int,
        patch_size: int,
        num_heads: int = 1,
        feedforward_channels: Optional[int] = None,
        position: str = '2d',
        map_size: Optional[int] = None,
        pre_norm: bool = False,
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        drop_path: float = 0.0,
        pad_mask: bool = True,
    ) -> None:
        super().__init__()
        _check_arguments(channels, patch_size, num_heads, position, map_size)
        self.patch_size = patch_size
        self.pre_norm = pre_norm
        self.pad_mask = pad_mask
        self.codes_whole_map = position == '2d_image'
        self.position = {
            '1d': lambda: PositionCode1d(channels, patch_size),
            '2d': lambda: PositionCode2d(channels, patch_size),
            '2d_image': lambda: ImagePositionCode2d(channels, map_size),
        }.get(position, lambda: None)()
        self.attention = PatchAttention(
            channels,
            num_heads,
            qkv_bias,
            drop_rate,
            patch_size if position == 'relative' else None,
        )
        self.norm1 = nn.LayerNorm(channels)
        hidden = feedforward_channels or 4 * channels
        self.mlp = TokenMLP(channels, hidden, drop_rate)
        self.norm2 = nn.LayerNorm(channels)
        self.drop_path = drop_path
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The release's initial values."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if self.attention.window_size is not None:
            nn.init.trunc_normal_(self.attention.bias_table, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H, W), channels last in memory."""
        height, width = x.shape[2:]
        if not self.pad_mask:
            pad = [-side % self.patch_size for side in (height, width)]
            x = F.pad(x, (0, pad[1], 0, pad[0])) if any(pad) else x
        x = x.permute(0, 2, 3, 1)
        if self.codes_whole_map:
            x = x + self.position(*x.shape[1:3])
        bias = self.attention.relative_bias()
        tiles = tile(*x.shape[1:3], self.patch_size)
        if runs_in_slices(self, x):
            x = self._evaluate(x, tiles, bias)
        else:
            keep = self._draw_kept_branches(x)
            rows = [
                [w.join(self._encode(x, w, bias, *keep)) for w in row]
                for row in tiles
            ]
            x = _concatenated([_concatenated(row, 2) for row in rows], 1)
        return x[:, :height, :width].permute(0, 3, 1, 2)

    def _evaluate(
        self, x: Tensor, tiles: list[list[Windows]], bias: Optional[Tensor]
    ) -> Tensor:
        """Map (N, H, W, C) to the same, some windows at a time."""
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        size = SLICE * torch.get_num_threads()
        for windows in (w for row in tiles for w in row):
            band = windows.height * windows.columns * windows.width
            images = min(max(size // band, 1), len(x))
            rows = max(size // (images * band), 1)
            for source, target in zip(x.split(images), out.split(images)):
                for w in windows.bands(rows):
                    w.write(self._encode(source, w, bias), target)
        return out

    def _draw_kept_branches(self, x: Tensor) -> tuple[Optional[Tensor], ...]:
        """For each branch, a factor (N, 1, 1, 1): 0 drops that of an image."""
        if not self.training or self.drop_path == 0:
            return None, None
        keep = 1 - self.drop_path
        shape = len(x), 1, 1, 1
        return tuple(
            x.new_empty(shape).bernoulli_(keep) / keep for _ in range(2)
        )

    def _encode(
        self,
        x: Tensor,
        windows: Windows,
        bias: Optional[Tensor],
        keep_attention: Optional[Tensor] = None,
        keep_mlp: Optional[Tensor] = None,
    ) -> Tensor:
        """Some windows of a map (N, H, W, C): (N * number, L, C)."""
        height, width = windows.height, windows.width
        x = windows.cut(x)
        if self.position is not None and not self.codes_whole_map:
            x += self.position(height, width).flatten(0, 1)
        if bias is not None:
            bias = bias[:, :height, :width, :height, :width]
            bias = bias.flatten(3).flatten(1, 2).contiguous()
        if self.pre_norm:
            branch = self.attention(self.norm1(x), bias)
            x = _add(x, branch, keep_attention)
            return _add(x, self.mlp(self.norm2(x)), keep_mlp)
        x = self.norm1(_add(x, self.attention(x, bias), keep_attention))
        return self.norm2(_add(x, self.mlp(x), keep_mlp))


def _add(x: Tensor, branch: Tensor, keep: Optional[Tensor]) -> Tensor:
    """``x`` plus the branch, times a factor (N, 1, 1, 1) for each image."""
    if keep is not None:
        images = branch.unflatten(0, (len(keep), -1))
        branch = (images * keep).flatten(0, 1)
    return residual(x, branch)


def _concatenated(parts: list[Tensor], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def _check_arguments(
    channels: int,
    patch_size: int,
    num_heads: int,
    position: str,
    map_size: Optional[int],
) -> None:
    if num_heads < 1 or channels < 1 or channels % num_heads:
        raise ValueError(
            'channels must be a positive multiple of num_heads, got '
            f'{channels} channels and {num_heads} heads.'
        )
    if not isinstance(patch_size, int) or patch_size < 1:
        raise ValueError(
            f'patch_size must be a positive int, got {patch_size!r}.'
        )
    if position not in POSITIONS:
        raise ValueError(
            f'position must be one of {POSITIONS}, got {position!r}.'
        )
    if position.startswith('2d') and channels % 2:
        raise ValueError(
            f'position={position!r} gives half of the channels to the rows: '
            f'channels must be even, got {channels}.'
        )
    if position == '2d_image' and not map_size:
        raise ValueError(
            "position='2d_image' needs map_size, the side of the map that its "
            f'tables cover, got {map_size!r}.'
        )
