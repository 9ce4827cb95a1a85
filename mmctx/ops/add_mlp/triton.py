"""The residual MLP of half-precision feature maps as one Triton kernel.

Hidden channels stay on the chip: a program takes some rows, all of their C
channels, and a few hidden channels at a time. So main memory sees the input
and the output, where PyTorch's operators write and read the hidden channels,
a multiple of C, twice each. Inference only: gradients would need the hidden
channels again.

Everything but the operands of the two products is float32. A program reads all
weights, from the second-level cache, so that it should have many rows. Set
``TRITON_INTERPRET=1`` before Python starts to run the kernel on CPU tensors.
"""

# ruff: noqa: RUF005 (Triton cannot unpack a tuple into another)

from collections.abc import Sequence
from typing import Optional

import torch
import torch.nn as nn
import triton
import triton.language as tl
from torch import Tensor

from ..triton_support import launch

#: A program's rows, channels of a block, and hidden channels at a time: fewer
#: where sums of more than WIDE channels take up the registers.
ROWS, CHANNELS, HIDDEN = 128, 64, 32
WIDE, HIDDEN_IF_WIDE = 192, 16


@triton.jit
def _columns(x, i, row, C: tl.constexpr, BLOCK_C: tl.constexpr, other):
    """Block i of the columns of rows of C elements, in float32."""
    c = i * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
    return tl.load(x + row * C + c, c < C, other=other).to(tl.float32)


@triton.jit
def _normed_rows(
    x, row, norm_weight, norm_bias, mean, variance, eps,
    C: tl.constexpr, BLOCK_C: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """A tuple of blocks of columns, normed."""
    COUNT: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    blocks = ()
    for i in tl.static_range(COUNT):
        blocks = blocks + (_columns(x, i, row, C, BLOCK_C, 0.0),)
    LAYER_NORM: tl.constexpr = mean is None
    if norm_weight is not None and LAYER_NORM:
        total = tl.sum(blocks[0], 1, keep_dims=True)
        for i in tl.static_range(1, COUNT):
            total += tl.sum(blocks[i], 1, keep_dims=True)
        centre = total / C
        total = tl.zeros_like(centre)
        for i in tl.static_range(COUNT):
            c = i * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
            distance = tl.where(c < C, blocks[i] - centre, 0.0)
            total += tl.sum(distance * distance, 1, keep_dims=True)
        factor = tl.rsqrt(total / C + eps)
    result = ()
    for i in tl.static_range(COUNT):
        block = blocks[i]
        if norm_weight is not None:
            if not LAYER_NORM:
                centre = _columns(mean, i, 0, C, BLOCK_C, 0.0)
                factor = _columns(variance, i, 0, C, BLOCK_C, 1.0)
                factor = tl.rsqrt(factor + eps)
            block = (block - centre) * factor
            block *= _columns(norm_weight, i, 0, C, BLOCK_C, 0.0)
            block += _columns(norm_bias, i, 0, C, BLOCK_C, 0.0)
        result = result + (block.to(DTYPE),)
    return result


@triton.jit
def _gelu(x):
    return 0.5 * x * (1 + tl.erf(x * 0.7071067811865476))


@triton.jit(do_not_specialize=('rows',))
def _mlp(
    x, branch, out, weight1, bias1, weight2, bias2, scale,
    norm_weight, norm_bias, mean, variance, eps, rows,
    C: tl.constexpr, HIDDEN: tl.constexpr, BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    """out = x + scale (weight2 gelu(weight1 norm(branch) + bias1) + bias2).

    Rows of C elements. Batch norm with a mean, layer norm without, no norm
    without a norm_weight.
    """
    DTYPE: tl.constexpr = weight1.dtype.element_ty
    COUNT: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    row = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    # A row beyond the last is a copy of that, and is not stored.
    row = row[:, None]
    source = tl.minimum(row, rows - 1)
    tokens = _normed_rows(
        branch, source, norm_weight, norm_bias, mean, variance, eps,
        C, BLOCK_C, DTYPE,
    )  # fmt: skip
    totals = ()
    for _ in tl.static_range(COUNT):
        totals = totals + (tl.zeros((BLOCK_R, BLOCK_C), tl.float32),)
    for first in range(0, HIDDEN, BLOCK_H):
        h = first + tl.arange(0, BLOCK_H)
        hidden = tl.zeros((BLOCK_R, BLOCK_H), tl.float32)
        for i in tl.static_range(COUNT):
            c = i * BLOCK_C + tl.arange(0, BLOCK_C)
            at = weight1 + h[None, :] * C + c[:, None]
            mask = (c < C)[:, None] & (h < HIDDEN)[None, :]
            hidden = tl.dot(tokens[i], tl.load(at, mask, other=0.0), hidden)
        if bias1 is not None:
            hidden += tl.load(bias1 + h, h < HIDDEN, other=0.0)[None, :]
        hidden = _gelu(hidden).to(DTYPE)
        sums = ()
        for i in tl.static_range(COUNT):
            c = i * BLOCK_C + tl.arange(0, BLOCK_C)
            at = weight2 + c[None, :] * HIDDEN + h[:, None]
            mask = (c < C)[None, :] & (h < HIDDEN)[:, None]
            weight = tl.load(at, mask, other=0.0)
            sums = sums + (tl.dot(hidden, weight, totals[i]),)
        totals = sums
    for i in tl.static_range(COUNT):
        total = totals[i]
        if bias2 is not None:
            total += _columns(bias2, i, 0, C, BLOCK_C, 0.0)
        if scale is not None:
            total *= _columns(scale, i, 0, C, BLOCK_C, 0.0)
        total += _columns(x, i, source, C, BLOCK_C, 0.0)
        c = i * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
        total = total.to(out.dtype.element_ty)
        tl.store(out + row * C + c, total, (row < rows) & (c < C))


def add_mlp(
    x: Tensor,
    branch: Tensor,
    norm: Optional[nn.Module],
    layers: Sequence[Optional[Tensor]],
    scale: Optional[Tensor],
) -> Tensor:
    """``x + scale * mlp(norm(branch))``.

    Args:
        x (Tensor): (..., C), contiguous.
        branch (Tensor): As ``x``.
        norm (nn.Module, optional): Layer norm, or batch norm in evaluation.
        layers (Sequence[Tensor, optional]): Weight (hidden, C) and bias, then
            weight (C, hidden) and bias; weights in half precision.
        scale (Tensor, optional): (C,).

    Returns:
        Tensor: As ``x``, in the dtype of the sum.
    """
    channels, hidden = layers[2].shape
    dtype = torch.promote_types(x.dtype, layers[0].dtype)
    if scale is not None:
        dtype = torch.promote_types(dtype, scale.dtype)
    out = torch.empty_like(x, dtype=dtype)
    rows = x.shape[:-1].numel()
    parameters = (
        getattr(norm, name, None)
        for name in ('weight', 'bias', 'running_mean', 'running_var')
    )
    launch(
        _mlp, triton.cdiv(rows, ROWS), x, x, branch, out, *layers, scale,
        *parameters, 0.0 if norm is None else norm.eps, rows,
        C=channels, HIDDEN=hidden, BLOCK_R=ROWS, BLOCK_C=CHANNELS,
        BLOCK_H=HIDDEN_IF_WIDE if channels > WIDE else HIDDEN,
        num_warps=8, num_stages=2,
    )  # fmt: skip
    return out
