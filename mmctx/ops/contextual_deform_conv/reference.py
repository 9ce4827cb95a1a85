"""Deformable convolution with a kernel per image, in plain PyTorch.

A sample is the weighted sum of four neighbouring pixels, so feature maps are
handled as rows: one row of C channels per pixel. All channels share the
positions, and sampling becomes a choice of rows. A border of zeros stands for
everything outside the feature map.
"""

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from ..precision import accumulation_dtype, without_autocast

Pair = tuple[int, int]
TAPS = 7  # sampled at once: bounds memory and the length of exported graphs


def to_rows(x: Tensor, dtype: torch.dtype) -> Tensor:
    """(N, C, H, W) to (N, H + 3, W + 3, C), with one row and column of zeros
    before the feature map and two after it."""
    return F.pad(x.to(dtype).permute(0, 2, 3, 1), (0, 0, 1, 2, 1, 2))


def _axis(
    offset: Tensor, base: Tensor, size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Along one axis: index, in the bordered feature map, of the pixel before
    each position, and the weights of that pixel and of the next one.

    Up to -1 and from ``size`` on, only zeros are read: positions beyond are
    clamped there, without gradient. The weights keep NaN.
    """
    position = (offset + base).clamp(-1, size)
    before = position.detach().floor()
    after_weight = position - before
    index = (before.nan_to_num(0) + 1).to(torch.int32)
    return index, 1 - after_weight, after_weight


def _tap_grid(
    offset: Tensor,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
) -> tuple[Tensor, Tensor]:
    """Rows (T, H', 1) and columns (T, 1, W') that taps read without offset,
    for offsets (N, 2T, H', W')."""
    options = dict(device=offset.device, dtype=offset.dtype)
    tap = torch.arange(kernel_size[0] * kernel_size[1], **options)
    row = torch.div(tap, kernel_size[1], rounding_mode='floor')
    column = tap - row * kernel_size[1]
    y, x = (
        torch.arange(offset.shape[2 + i], **options) * stride[i] - padding[i]
        for i in range(2)
    )
    y = (row * dilation[0])[:, None, None] + y[:, None]
    return y, (column * dilation[1])[:, None, None] + x


def tap_positions(offset: Tensor, *geometry: Pair) -> Tensor:
    """Positions (N, 2, H' * W', T) of the taps of kernels with the size,
    stride, padding and dilation ``geometry``; in float32 or better."""
    offset = offset.to(accumulation_dtype(offset))
    y, x = _tap_grid(offset, *geometry)
    position = torch.stack((offset[:, ::2] + y, offset[:, 1::2] + x), dim=1)
    return position.flatten(3).transpose(2, 3)


def corners(
    offset: Tensor,
    mask: Optional[Tensor],
    input_size: Pair,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
) -> tuple[Tensor, Tensor]:
    """Where each tap of each output pixel reads, and with what weights.

    Args:
        offset (Tensor): (N, 2T, H', W') with T taps, dy before dx.
        mask (Tensor, optional): (N, T, H', W').
        input_size, kernel_size, stride, padding, dilation (tuple[int, int]):
            Height before width.

    Returns:
        tuple[Tensor, Tensor]: int32 (N, T, H' * W'), the row of the upper
        left corner among all rows of :func:`to_rows`; (N, T, H' * W', 4), the
        weights of the upper left, upper right, lower left and lower right
        corner, times the mask.
    """
    n = offset.shape[0]
    h, w = input_size
    y, x = _tap_grid(offset, kernel_size, stride, padding, dilation)
    offset = offset.unflatten(1, (-1, 2))
    top, *y_weights = _axis(offset[:, :, 0], y, h)
    left, *x_weights = _axis(offset[:, :, 1], x, w)
    image = torch.arange(n, device=offset.device, dtype=torch.int32)
    image = image[:, None, None, None] * ((h + 3) * (w + 3))
    index = image + top * (w + 3) + left
    if mask is not None:
        y_weights = [weight * mask for weight in y_weights]
    weight = torch.stack([a * b for a in y_weights for b in x_weights], -1)
    return index.flatten(2), weight.flatten(2, 3)


def corner_steps(width: int) -> tuple[int, int, int, int]:
    """Distances in rows from the upper left corner to the four corners."""
    return 0, 1, width + 3, width + 4


def _sample(rows: Tensor, index: Tensor, weight: Tensor, steps) -> Tensor:
    """(N, T, P, C) values; index (N, T, P), weight (N, T, P, 4)."""
    return sum(
        rows.index_select(0, (index + step).flatten()).unflatten(
            0, index.shape
        )
        * weight[..., i, None]
        for i, step in enumerate(steps)
    )


def _multiply(sample: Tensor, weight: Tensor) -> Tensor:
    """(N, T, P, C) by (N, G, C_out / G, C / G, T) to (N, P, C_out)."""
    groups, out_channels, in_channels = weight.shape[1:4]
    if out_channels == in_channels == 1:
        weight = weight.flatten(1, 3).transpose(1, 2).unsqueeze(2)
        return (sample * weight).sum(1)
    sample = sample.unflatten(-1, (groups, in_channels))
    sample = sample.permute(0, 3, 2, 4, 1).flatten(3)
    weight = weight.flatten(3).transpose(-1, -2)
    return (sample @ weight).transpose(1, 2).flatten(2)


def contract_reference(
    rows: Tensor, index: Tensor, corner: Tensor, weight: Tensor
) -> Tensor:
    """The sum over taps, a few at a time.

    Args:
        rows (Tensor): (N, H + 3, W + 3, C) from :func:`to_rows`.
        index, corner (Tensor): (N, T, P) and (N, T, P, 4) from
            :func:`corners`.
        weight (Tensor): (N, G, C_out / G, C / G, T).

    Returns:
        Tensor: (N, P, C_out).
    """
    steps = corner_steps(rows.shape[2] - 3)
    rows = rows.flatten(0, 2)
    out = 0
    for first in range(0, index.shape[1], TAPS):
        taps = slice(first, first + TAPS)
        sample = _sample(rows, index[:, taps], corner[:, taps], steps)
        out = out + _multiply(sample, weight[..., taps])
    return out


def contextual_deform_conv_reference(
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Optional[Tensor],
    mask: Optional[Tensor],
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    contract=contract_reference,
) -> Tensor:
    """The operator on checked arguments, with a choice of its inner sum.

    Differentiable as often as ``contract`` is. Shapes as in
    :func:`mmctx.ops.contextual_deform_conv`, which also checks them.
    """
    dtype = accumulation_dtype(x, offset, weight, bias, mask)
    groups = x.shape[1] // weight.shape[2]
    with without_autocast(x):
        index, corner = corners(
            offset.to(dtype),
            None if mask is None else mask.to(dtype),
            x.shape[2:],
            weight.shape[3:],
            stride,
            padding,
            dilation,
        )
        kernel = weight.to(dtype).flatten(3).unflatten(1, (groups, -1))
        out = contract(to_rows(x, dtype), index, corner, kernel)
        if bias is not None:
            out = out + bias.to(dtype)
    out = out.unflatten(1, offset.shape[2:]).permute(0, 3, 1, 2)
    return out.to(x.dtype)
