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
    launch,
    partial_sums,
    place,
    position,
    value_gradient,
    weight_gradient,
)
from ..local_aggregation.triton import (
    forward as aggregate,
)


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


def _normalise(value, weight, bias, eps, heads) -> tuple[Tensor, Tensor]:
    """Factors (N, 1, G) and shifts (N, T, G) that normalise the weights."""
    partial = partial_sums(value, weight, 2)
    launch(_moments, (value,), (weight,), (bias, partial), heads, 1)
    count = weight.shape[2:].numel()
    mean, square = partial.sum(1, keepdim=True).div_(count).unbind(2)
    rstd = torch.addcmul(square, mean, mean, value=-1).add_(eps).rsqrt_()
    mean = mean + weight[:, None, :, 0, 0, 0]
    return rstd, (bias.t() - mean) * rstd


def _affine(rstd, shift, gamma, beta) -> tuple[Tensor, Tensor]:
    """Scale and shift (N, T, G) of the whole norm."""
    gamma, beta = gamma.t(), beta.t()
    shift = torch.addcmul(beta.to(shift.dtype), shift, gamma.to(shift.dtype))
    return (rstd * gamma).contiguous(), shift.contiguous()


def forward(
    value: Tensor,
    weight: Tensor,
    bias: Tensor,
    gamma: Tensor,
    beta: Tensor,
    eps: float,
    kernel_size: int,
    dilation: int,
    heads: int,
    norms: tuple = (None,) * 4,
) -> Tensor:
    """Output of the operator; arguments as of the reference.

    ``norms`` are as of :func:`mmctx.ops.local_aggregation.triton.forward`.
    """
    affine = _affine(*_normalise(value, weight, bias, eps, heads), gamma, beta)
    return aggregate(
        value, weight, kernel_size, dilation, heads, affine, norms
    )


def backward(
    grad: Tensor,
    value: Tensor,
    weight: Tensor,
    bias: Tensor,
    gamma: Tensor,
    beta: Tensor,
    eps: float,
    kernel_size: int,
    dilation: int,
    heads: int,
) -> tuple[Tensor, ...]:
    """Gradients of all tensors, in their dtypes and memory formats."""
    rstd, shift = _normalise(value, weight, bias, eps, heads)
    scale, whole_shift = _affine(rstd, shift, gamma, beta)
    tensors = grad, value, weight, dilation, heads
    grad_value = value_gradient(*tensors, (scale, whole_shift))
    partial = partial_sums(value, weight, 2, weight.shape[2])
    rstds = rstd.expand_as(shift).contiguous()
    others = partial, rstds, shift.contiguous(), None
    weight_gradient(*tensors, weight, others)
    sums = partial.sum(1)
    # With x the normalised weights and d the gradient of the norm's output:
    # rstd * (gamma * d - mean(gamma * d) - x * mean(gamma * d * x)).
    means = (sums * gamma.t()).sum(2, keepdim=True) / weight.shape[2:].numel()
    means = means * -rstd[:, None]
    slope = (means[:, 1] * rstd).expand_as(shift).contiguous()
    offset = torch.addcmul(means[:, 0], means[:, 1], shift).contiguous()
    grad_weight = torch.empty_like(weight)
    weight_gradient(*tensors, grad_weight, (None, slope, offset, scale))
    return (
        grad_value,
        grad_weight,
        grad_weight.sum((0, 3, 4), dtype=rstd.dtype).to(bias.dtype),
        sums[:, 1].sum(0).t().to(gamma.dtype),
        sums[:, 0].sum(0).t().to(beta.dtype),
    )
