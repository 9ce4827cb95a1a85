"""Local aggregation with normed weights as Triton kernels.

The norm is a scale and a shift per image and channel of the weights, which the
kernels of local aggregation apply as they read. So the weights are read twice,
for their moments and for the aggregation, and written by nobody. The
gradient of the weights needs sums over all of a group's gradients first: the
same kernel computes these gradients twice, which takes fewer bytes than to
write and read them, and rounds once.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..local_aggregation.triton import (
    FEW_VARIANTS,
    launch_tiles,
    partial_sums,
    place,
    position,
    value_gradient,
    weight_gradient,
)
from ..local_aggregation.triton import (
    forward as aggregate,
)
from ..triton_support import launch, triton_dtype


@triton.jit(**FEW_VARIANTS)
def _moments(
    weight, bias, partial, groups, height, width,
    weight_n, weight_g, weight_t, weight_y, weight_x,
    SHARE: tl.constexpr, HEADS: tl.constexpr, KERNEL: tl.constexpr,
    DILATION: tl.constexpr, SUM: tl.constexpr, INDEX: tl.constexpr,
    UNIT: tl.constexpr, WEIGHT_UNIT: tl.constexpr, BLOCK_S: tl.constexpr,
    BLOCK_Y: tl.constexpr, BLOCK_X: tl.constexpr, BLOCK_G: tl.constexpr,
):  # fmt: skip
    """partial (N, tiles, 2, G): sums of weight + bias (G, T) and of squares.

    Less the group's first weight, so that a variance far smaller than the
    mean survives.
    """
    groups *= UNIT * HEADS
    image, y, x, g, inside, tile = position(
        groups, height, width, BLOCK_Y, BLOCK_X, BLOCK_G, INDEX
    )
    in_group = g < groups
    pivot = weight + image * (weight_n * WEIGHT_UNIT) + g * weight_g
    pivot = tl.load(pivot, in_group, other=0.0).to(SUM)
    weight = place(
        weight, image, g, y, x, weight_n, weight_g, weight_y, weight_x,
        WEIGHT_UNIT,
    )  # fmt: skip
    weight_t = weight_t.to(INDEX)
    TAPS: tl.constexpr = KERNEL * KERNEL
    total = tl.zeros((BLOCK_Y * BLOCK_X, BLOCK_G), SUM)
    squares = tl.zeros((BLOCK_Y * BLOCK_X, BLOCK_G), SUM)
    for tap in tl.range(0, TAPS, loop_unroll_factor=3):
        shift = tl.load(bias + g * TAPS + tap, in_group, other=0.0) - pivot
        at = weight + tap * weight_t * WEIGHT_UNIT
        term = tl.load(at, inside, other=0.0).to(SUM) + shift
        term = tl.where(inside, term, 0.0)
        total += term
        squares += term * term
    at = partial + tile * 2 * groups + g
    tl.store(at, tl.sum(total, 0, keep_dims=True), in_group)
    tl.store(at + groups, tl.sum(squares, 0, keep_dims=True), in_group)


@triton.jit(
    do_not_specialize=('tiles', 'groups', 'count', 'weight_n', 'weight_g')
)
def _scale_and_shift(
    partial, weight, bias, gamma, beta, scale, shift, tiles, groups, count,
    eps, weight_n, weight_g,
    TAPS: tl.constexpr, SUM: tl.constexpr, BLOCK_G: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Scale and shift (N, T, G) of a norm, of sums by :func:`_moments`."""
    image = tl.program_id(0).to(tl.int64)
    g = tl.program_id(1) * BLOCK_G + tl.arange(0, BLOCK_G)[None, :]
    tile = tl.arange(0, BLOCK)[:, None]
    in_group = g < groups
    total = tl.zeros((BLOCK, BLOCK_G), SUM)
    squares = tl.zeros((BLOCK, BLOCK_G), SUM)
    for first in range(0, tiles, BLOCK):
        at = partial + (image * tiles + first + tile) * 2 * groups + g
        exists = in_group & (first + tile < tiles)
        total += tl.load(at, exists, other=0.0)
        squares += tl.load(at + groups, exists, other=0.0)
    mean = tl.sum(total, 0, keep_dims=True) / count
    variance = tl.sum(squares, 0, keep_dims=True) / count - mean * mean
    rstd = tl.rsqrt(variance + eps)
    pivot = weight + image * weight_n + g * weight_g
    mean += tl.load(pivot, in_group, other=0.0).to(SUM)
    for tap in range(TAPS):
        channel = g * TAPS + tap
        factor = rstd
        offset = (tl.load(bias + channel, in_group, other=0.0) - mean) * rstd
        if gamma is not None:
            by = tl.load(gamma + channel, in_group, other=0.0)
            factor, offset = factor * by, offset * by
            offset += tl.load(beta + channel, in_group, other=0.0)
        out = (image * TAPS + tap) * groups + g
        tl.store(scale + out, factor, in_group)
        tl.store(shift + out, offset, in_group)


def _sum_moments(value, weight, bias, heads) -> Tensor:
    partial = partial_sums(value, weight, 2)
    launch_tiles(_moments, (value,), (weight,), (bias, partial), heads, 1)
    return partial


def _affine(partial, weight, bias, eps, gamma=None, beta=None):
    """Scale and shift (N, T, G) of the norm; without gamma, to mean 0 and
    variance 1."""
    n, groups, taps = weight.shape[:3]
    out = partial.new_empty(2, n, taps, groups)
    if out.numel() and weight.numel():
        launch(
            _scale_and_shift, (n, triton.cdiv(groups, 8)), weight,
            partial, weight, bias, gamma, beta, *out, partial.shape[1],
            groups, weight.shape[2:].numel(), eps, *weight.stride()[:2],
            TAPS=taps, SUM=triton_dtype(partial.dtype), BLOCK_G=8,
            BLOCK=32, num_warps=1,
        )  # fmt: skip
    return tuple(out)


def forward(
    value, weight, bias, gamma, beta, eps, kernel_size, dilation, heads,
    norms=(None,) * 4,
) -> Tensor:  # fmt: skip
    """Output of the operator; arguments as of the reference.

    ``norms`` are as of :func:`mmctx.ops.local_aggregation.triton.forward`.
    """
    partial = _sum_moments(value, weight, bias, heads)
    affine = _affine(partial, weight, bias, eps, gamma, beta)
    return aggregate(
        value, weight, kernel_size, dilation, heads, affine, norms
    )


def backward(
    grad, value, weight, bias, gamma, beta, eps, kernel_size, dilation, heads
) -> tuple[Tensor, ...]:
    """Gradients of all tensors, in their dtypes and memory formats."""
    partial = _sum_moments(value, weight, bias, heads)
    scale, whole_shift = _affine(partial, weight, bias, eps, gamma, beta)
    rstd, shift = _affine(partial, weight, bias, eps)
    tensors = grad, value, weight, dilation, heads
    grad_value = value_gradient(*tensors, (scale, whole_shift))
    partial = partial_sums(value, weight, 2, weight.shape[2])
    weight_gradient(*tensors, weight, (partial, rstd, shift, None))
    sums = partial.sum(1)
    # With x the normalised weights and d the gradient of the norm's output:
    # rstd * (gamma * d - mean(gamma * d) - x * mean(gamma * d * x)).
    means = (sums * gamma.t()).sum(2, keepdim=True)
    means = means * rstd[:, None] / -weight.shape[2:].numel()
    slope = means[:, 1] * rstd
    offset = torch.addcmul(means[:, 0], means[:, 1], shift)
    grad_weight = torch.empty_like(weight)
    weight_gradient(*tensors, grad_weight, (None, slope, offset, scale))
    grad_bias = grad_weight.sum((0, 3, 4), dtype=rstd.dtype)
    grad_beta, grad_gamma = sums.sum(0).transpose(1, 2)
    grads = grad_bias, grad_gamma, grad_beta
    params = bias, gamma, beta
    return (
        grad_value,
        grad_weight,
        *(g.to(x.dtype, copy=True) for g, x in zip(grads, params)),
    )
