"""The patch-wise transformer encoder of ConTNet."""

from typing import Optional

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from mmctx.ops import add_mlp, attention, windowed
from mmctx.ops.dispatch import is_known
from mmctx.ops.windowed.windows import cut

from .mlp import TokenMLP
from .position_codes import (
    ImagePositionCode2d,
    PositionCode1d,
    PositionCode2d,
)
from .stochastic_depth import StochasticDepth, add_branch

POSITIONS = ('none', '1d', '2d', '2d_image', 'relative')


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
        self.proj = nn.Linear(channels, channels)
        self.attention_drop_rate = drop_rate
        self.proj_drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor, padding: Optional[Tensor] = None) -> Tensor:
        """Windows (N, B, h, w, C) to the same.

        ``padding`` (B, h, w) is true at tokens that none attends to.
        """
        heads = self.qkv(x).flatten(2, 3).flatten(0, 1)
        heads = heads.unflatten(2, (3, self.num_heads, -1))
        q, k, v = heads.permute(2, 0, 3, 1, 4).unbind()
        bias = None
        if self.window_size is not None:
            bias = self._relative_bias(*x.shape[2:4]).to(q.dtype)
        if padding is not None:
            hidden = padding.flatten(1).repeat(x.shape[0], 1)[:, None, None]
            low = torch.zeros_like(hidden, dtype=q.dtype)
            low = low.masked_fill(hidden, -torch.inf)
            bias = low if bias is None else bias + low
        drop_rate = self.attention_drop_rate if self.training else 0.0
        out = attention(q, k, v, bias, drop_rate).transpose(1, 2)
        return self.proj_drop(self.proj(out.reshape(x.shape)))

    def _relative_bias(self, height: int, width: int) -> Tensor:
        """Biases (1, heads, L, L) by query and key of an h x w window.

        That of query (y, x) and key (y', x') is in row
        (y - y' + P - 1) * (2 P - 1) + (x - x' + P - 1) of the table.
        """
        size = self.window_size
        table = self.bias_table.t().unflatten(1, (2 * size - 1, 2 * size - 1))
        table = table[
            :,
            size - height : size + height - 1,
            size - width : size + width - 1,
        ]
        # (heads, h - 1 - y', w - 1 - x', y, x)
        bias = table.unfold(1, height, 1).unfold(2, width, 1)
        bias = bias.permute(0, 3, 4, 1, 2).flip(3, 4)
        return bias.flatten(3).flatten(1, 2).unsqueeze(0)


class PatchwiseTransformerEncoder(nn.Module):
    r"""The standard transformer encoder (STE) on patches of a feature map.

    A feature map is cut into patches of P x P tokens from its upper left
    corner; each patch is a sequence of its own.

    .. math::
        t &= \mathrm{LN}(x + \mathrm{MHSA}(x)) \\
        y &= \mathrm{LN}(t + \mathrm{MLP}(t))

    with x the tokens plus their position code, or, with ``pre_norm``,
    :math:`t = x + \mathrm{MHSA}(\mathrm{LN}(x))` and
    :math:`y = t + \mathrm{MLP}(\mathrm{LN}(t))`.

    Where P does not divide the feature map, the paper speaks of "marginal
    padding" and of no mask. Masking is ours: by default no token attends to
    padding. The result is computed without any padding, in windows that the
    border cuts off; an exporter that leaves the size open records padding and
    its mask.

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
            the patch), '2d' (a code of the row and one of the column of the
            patch, half of the channels each), '2d_image' (the same over the
            whole feature map, resized to fit) or 'relative' (a bias of the
            attention's logits). Defaults to '2d'.
        map_size (int, optional): Side of the tables of '2d_image', that of the
            feature map.
        pre_norm (bool): Norm at the start of each branch instead of after each
            sum. Defaults to False.
        qkv_bias (bool): Bias of queries, keys and values. Defaults to True.
        drop_rate (float): Dropout of attention weights and after each linear
            layer but that of queries, keys and values. Defaults to 0.
        drop_path (float): Probability of dropping a branch of an image.
            Defaults to 0.
        pad_mask (bool): Keep padding out of the attention. False pads with
            zeros, which are tokens like any other. Defaults to True.

    Raises:
        ValueError: An argument is invalid.

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
        }.get(position, nn.Identity)()
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
        self.drop_path = StochasticDepth(drop_path)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The release's initial values, but for one bias.

        Padding makes tokens of zeros, whose norm has a gradient of 1 /
        sqrt(eps), and behind another one the product: with the bias, tokens
        differ from channel to channel before they meet a norm.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.attention.proj.bias, std=0.02)
        if self.attention.window_size is not None:
            nn.init.trunc_normal_(self.attention.bias_table, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H, W), channels last in memory."""
        height, width = x.shape[2:]
        padding = None
        if not (self.pad_mask and is_known(height) and is_known(width)):
            x, padding = self._pad(x)
        x = x.permute(0, 2, 3, 1)
        if self.codes_whole_map:
            x = self.position(x)
        # Factors (N, 1, 1, 1, 1) for all windows of an image.
        factors = [self.drop_path(x.unsqueeze(1)) for _ in range(2)]
        x = windowed(
            lambda windows: self._encode(windows, *factors, padding),
            x,
            self.patch_size,
            *self.children(),
        )
        return x[:, :height, :width].permute(0, 3, 1, 2)

    def _pad(self, x: Tensor) -> tuple[Tensor, Optional[Tensor]]:
        """Fill whole windows by zeros; where they are, if it matters.

        Returns:
            tuple: (N, C, H', W') and (B, P, P), true at zeros, or None.
        """
        size = self.patch_size
        counts = [(side + size - 1) // size for side in x.shape[2:]]
        bottom, right = (
            count * size - side for count, side in zip(counts, x.shape[2:])
        )
        padded = F.pad(x, (0, right, 0, bottom))
        if not self.pad_mask:
            return padded, None
        rows, columns = (
            torch.arange(count * size, device=x.device) >= side
            for count, side in zip(counts, x.shape[2:])
        )
        outside = rows.unsqueeze(1) | columns
        return padded, cut(outside[None, ..., None], size, size)[0, ..., 0]

    def _encode(
        self,
        x: Tensor,
        attention_factor: Optional[Tensor],
        mlp_factor: Optional[Tensor],
        padding: Optional[Tensor],
    ) -> Tensor:
        """Windows (N, B, h, w, C) to the same."""
        if not self.codes_whole_map:
            x = self.position(x)
        if self.pre_norm:
            branch = self.attention(self.norm1(x), padding)
            x = add_branch(x, branch, attention_factor)
            return add_mlp(x, self.mlp, self.norm2, scale=mlp_factor)
        branch = self.attention(x, padding)
        x = self.norm1(add_branch(x, branch, attention_factor))
        return self.norm2(add_mlp(x, self.mlp, scale=mlp_factor))


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
            "position='2d_image' needs map_size, the feature map's side that "
            f'its tables cover, got {map_size!r}.'
        )
