"""Local aggregation as Triton kernels: forward and both gradients.

Traffic. With b bytes per element and S channels per weight (CoT: S = 8), each
output element needs 2 b for value and output and K * K / S * b for its share
of the weights: at K = 3 and S = 8 that is 3.125 b. The work on them is 2 * K *
K operations, far fewer than the device could do in that time, so memory is the
limit, and the kernels are built to touch main memory once per element:

- A program takes a rectangle of pixels, a block of weight channels, and *all*
  channels that share them. It loads each weight once and uses it S times from
  registers (beyond eight channels, once for every eight).
- The K * K shifted reads of the values overlap, so all but the rectangle's rim
  come from L1; a rectangle, because a strip of one row would fetch every row
  K times from L2.
- Elements that lie next to each other in memory go to threads next to each
  other: channels for channels_last, columns for contiguous feature maps.
  Strides are arguments, so neither format, nor a view, is ever copied. In
  channels_last every shift is a whole number of pixels, and a thread reads
  four channels at once.
- Rows of the neighbourhood are a loop, and so are more than three columns:
  code and registers do not grow with K.
- The gradient of the values gathers as the forward pass does, from mirrored
  taps; that of the weights sums over the S channels inside a program. There
  are no atomics, and a tile's shape follows from the operands' shapes alone
  rather than from timings, so repeats are equal to the bit, between processes
  too.

Sums are computed in float32, or in float64 where an input has it. Set
``TRITON_INTERPRET=1`` before Python starts to run the kernels on CPU tensors.
"""

import math
from typing import Optional

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..precision import accumulation_dtype
from ..triton_support import (
    index_dtype,
    launch,
    power_of_two,
    triton_dtype,
)

#: Sides of a tile: rows x columns, and bytes of channels, of channels_last
#: feature maps; pixels, and most columns, of contiguous ones.
CHANNELS_LAST_PIXELS = (8, 8)
CHANNELS_LAST_BYTES = 32
CONTIGUOUS_PIXELS = 256
CONTIGUOUS_COLUMNS = 32
#: Elements of a channel block per thread, and channels of one weight that are
#: summed at a time.
PER_THREAD = 4
MOST_SHARES = 8

# Triton may know whether channels and columns are adjacent. Anything else that
# it knew of strides would change from image size to image size, and cost a
# compilation each time; what gives a thread several channels at once is UNIT,
# a factor of all other strides.
_TENSORS = ('value', 'weight', 'grad', 'out')
FEW_VARIANTS = dict(
    do_not_specialize=(
        'groups',
        'height',
        'width',
        *(f'{name}_{dim}' for name in _TENSORS for dim in 'nty'),
    ),
    do_not_specialize_on_alignment=[
        f'{name}_{dim}' for name in _TENSORS for dim in 'cgx'
    ],
)


@triton.jit
def position(
    groups,
    height,
    width,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
    BLOCK_G: tl.constexpr,
    INDEX: tl.constexpr,
):
    """Image, rows (P, 1), columns (P, 1), weight channels (1, G), which of
    them (P, G) exist, and the place in :func:`partial_sums`."""
    tiles_x = tl.cdiv(width, BLOCK_X)
    tiles_y = tl.cdiv(height, BLOCK_Y)
    blocks_g = tl.cdiv(groups, BLOCK_G)
    rest = tl.program_id(0)
    tile_x = rest % tiles_x
    rest = rest // tiles_x
    tile_y = rest % tiles_y
    rest = rest // tiles_y
    block_g = rest % blocks_g
    image = (rest // blocks_g).to(tl.int64)
    place = (image * tiles_y + tile_y) * tiles_x + tile_x
    pixel = tl.arange(0, BLOCK_Y * BLOCK_X)[:, None]
    y = (tile_y * BLOCK_Y + pixel // BLOCK_X).to(INDEX)
    x = (tile_x * BLOCK_X + pixel % BLOCK_X).to(INDEX)
    g = (block_g * BLOCK_G + tl.arange(0, BLOCK_G)[None, :]).to(INDEX)
    inside = (y < height) & (x < width) & (g < groups)
    return image, y, x, g, inside, place


@triton.jit
def place(
    tensor, image, g, y, x, stride_n, stride_c, stride_y, stride_x,
    UNIT: tl.constexpr,
):  # fmt: skip
    """Pointers to a block's elements (P, G) of a tensor."""
    tensor += image * (stride_n * UNIT)
    return tensor + (g * stride_c + (y * stride_y + x * stride_x) * UNIT)


@triton.jit
def _channel(g, step, SHARE: tl.constexpr, HEADS: tl.constexpr):
    """The first channel that has a weight channel; the next are steps away."""
    if HEADS > 1:
        g += g // step * (step * (SHARE - 1))
    return g


@triton.jit
def _affine(x, scale, shift, image, tap, g, groups, TAPS: tl.constexpr):
    """x times scale (N, T, G) plus shift, both None for x itself."""
    if scale is not None:
        at = (image * TAPS + tap) * groups + g
        x *= tl.load(scale + at, g < groups, other=0.0)
        x += tl.load(shift + at, g < groups, other=0.0)
    return x


@triton.jit
def _batch_norm(x, mass, norm, eps, c, channels, mask):
    """The norm (mean, variance, scale, shift: (4, C)) of each of the elements
    that x is a sum of, with weights that sum to mass."""
    mean = tl.load(norm + c, mask, other=0.0)
    variance = tl.load(norm + channels + c, mask, other=1.0)
    scale = tl.load(norm + 2 * channels + c, mask, other=0.0)
    shift = tl.load(norm + 3 * channels + c, mask, other=0.0)
    return (x - mean * mass) * (scale * tl.rsqrt(variance + eps)) + (
        shift * mass
    )


@triton.jit
def _repeat(x, COUNT: tl.constexpr):
    """A tuple of COUNT times x."""
    result = ()
    for _ in tl.static_range(COUNT):
        result = result + (x,)  # noqa: RUF005 (Triton knows no unpacking)
    return result


@triton.jit
def _load_all(at, stride, mask, DTYPE: tl.constexpr, COUNT: tl.constexpr):
    """A tuple of the COUNT blocks at, at + stride, ..."""
    result = ()
    for s in tl.static_range(COUNT):
        block = tl.load(at + s * stride, mask, other=0.0).to(DTYPE)
        result = result + (block,)  # noqa: RUF005
    return result


@triton.jit
def _add_scaled(totals, scale, at, stride, mask, count, COUNT: tl.constexpr):
    """totals[s] + scale * (block at + s * stride), for s < count."""
    result = ()
    for s in tl.static_range(COUNT):
        term = tl.load(at + s * stride, mask & (s < count), other=0.0)
        total = totals[s] + scale * term.to(scale.dtype)
        result = result + (total,)  # noqa: RUF005
    return result


@triton.jit(**FEW_VARIANTS)
def _aggregate(
    value, weight, out, scale, shift, value_norm, norm, value_eps, eps,
    groups, height, width,
    value_n, value_c, value_y, value_x,
    weight_n, weight_g, weight_t, weight_y, weight_x,
    out_n, out_c, out_y, out_x,
    SHARE: tl.constexpr, HEADS: tl.constexpr, KERNEL: tl.constexpr,
    DILATION: tl.constexpr, SUM: tl.constexpr, INDEX: tl.constexpr,
    UNIT: tl.constexpr, WEIGHT_UNIT: tl.constexpr, BLOCK_S: tl.constexpr,
    BLOCK_Y: tl.constexpr, BLOCK_X: tl.constexpr, BLOCK_G: tl.constexpr,
    TRANSPOSED: tl.constexpr,
):  # fmt: skip
    """out[c, p] = sum_t weight[g, t, p] value[c, p + t], g that of c.

    TRANSPOSED: sum_t weight[g, -t, p + t] value[c, p + t], the gradient of
    the values where ``value`` is that of the output. Weights are those of
    :func:`_affine`. With norms, batch norm of the values and, of the output,
    batch norm and SiLU.
    """
    step = groups * UNIT
    groups = step * HEADS
    image, y, x, g, inside, _ = position(
        groups, height, width, BLOCK_Y, BLOCK_X, BLOCK_G, INDEX
    )
    c = _channel(g, step, SHARE, HEADS)
    value_s, out_s = step.to(INDEX) * value_c, step.to(INDEX) * out_c
    value = place(
        value, image, c, y, x, value_n, value_c, value_y, value_x, UNIT
    )
    weight = place(
        weight, image, g, y, x, weight_n, weight_g, weight_y, weight_x,
        WEIGHT_UNIT,
    )  # fmt: skip
    out = place(out, image, c, y, x, out_n, out_c, out_y, out_x, UNIT)
    weight_t = weight_t.to(INDEX)
    radius: tl.constexpr = KERNEL // 2
    for first in range(0, SHARE, BLOCK_S):
        zeros = tl.zeros((BLOCK_Y * BLOCK_X, BLOCK_G), SUM)
        totals = _repeat(zeros, BLOCK_S)
        mass = zeros
        for row in range(KERNEL):
            dy = (row - radius) * DILATION
            in_row = inside & (y + dy >= 0) & (y + dy < height)
            for column in tl.range(0, KERNEL, loop_unroll_factor=3):
                dx = (column - radius) * DILATION
                near = in_row & (x + dx >= 0) & (x + dx < width)
                tap = row * KERNEL + column
                at = weight
                if TRANSPOSED:
                    tap = KERNEL * KERNEL - 1 - tap
                    at += (dy * weight_y + dx * weight_x) * WEIGHT_UNIT
                at += tap * weight_t * WEIGHT_UNIT
                factor = _affine(
                    tl.load(at, near, other=0.0).to(SUM), scale, shift,
                    image, tap, g, groups, KERNEL * KERNEL,
                )  # fmt: skip
                if norm is not None:
                    mass += tl.where(near, factor, 0.0)
                at = value + (dy * value_y + dx * value_x) * UNIT
                totals = _add_scaled(
                    totals, factor, at + first * value_s, value_s, near,
                    SHARE - first, BLOCK_S,
                )  # fmt: skip
        for s in tl.static_range(BLOCK_S):
            total = totals[s]
            if norm is not None:
                at, channels = c + (first + s) * step, groups * SHARE
                exists = (g < groups) & (first + s < SHARE)
                total = _batch_norm(
                    total, mass, value_norm, value_eps, at, channels, exists
                )
                total = _batch_norm(
                    total, 1.0, norm, eps, at, channels, exists
                )
                total *= tl.sigmoid(total)
            tl.store(
                out + (first + s) * out_s,
                total.to(out.dtype.element_ty),
                inside & (first + s < SHARE),
            )


@triton.jit(**FEW_VARIANTS)
def _weight_gradient(
    grad, value, weight, out, partial, scale, shift, factor,
    groups, height, width,
    grad_n, grad_c, grad_y, grad_x,
    value_n, value_c, value_y, value_x,
    weight_n, weight_g, weight_t, weight_y, weight_x,
    out_n, out_g, out_t, out_y, out_x,
    SHARE: tl.constexpr, HEADS: tl.constexpr, KERNEL: tl.constexpr,
    DILATION: tl.constexpr, SUM: tl.constexpr, INDEX: tl.constexpr,
    UNIT: tl.constexpr, WEIGHT_UNIT: tl.constexpr, BLOCK_S: tl.constexpr,
    BLOCK_Y: tl.constexpr, BLOCK_X: tl.constexpr, BLOCK_G: tl.constexpr,
):  # fmt: skip
    """out[g, t, p] = sum_c grad[c, p] value[c, p + t] over the c of g.

    With a scale (N, T, G), x is :func:`_affine` of the weights. Then, with a
    factor (N, T, G), the output is the sum times it, plus x; otherwise
    partial (N, tiles, 2, T, G) holds sums over pixels, of the sum and of its
    product with x.
    """
    step = groups * UNIT
    groups = step * HEADS
    image, y, x, g, inside, tile = position(
        groups, height, width, BLOCK_Y, BLOCK_X, BLOCK_G, INDEX
    )
    c = _channel(g, step, SHARE, HEADS)
    value_s, grad_s = step.to(INDEX) * value_c, step.to(INDEX) * grad_c
    value = place(
        value, image, c, y, x, value_n, value_c, value_y, value_x, UNIT
    )
    grad = place(grad, image, c, y, x, grad_n, grad_c, grad_y, grad_x, UNIT)
    weight = place(
        weight, image, g, y, x, weight_n, weight_g, weight_y, weight_x,
        WEIGHT_UNIT,
    )  # fmt: skip
    out = place(out, image, g, y, x, out_n, out_g, out_y, out_x, WEIGHT_UNIT)
    weight_t, out_t = weight_t.to(INDEX), out_t.to(INDEX)
    TAPS: tl.constexpr = KERNEL * KERNEL
    if SHARE == BLOCK_S:
        grads = _load_all(grad, grad_s, inside, SUM, BLOCK_S)
    radius: tl.constexpr = KERNEL // 2
    for row in range(KERNEL):
        dy = (row - radius) * DILATION
        in_row = inside & (y + dy >= 0) & (y + dy < height)
        for column in tl.range(0, KERNEL, loop_unroll_factor=3):
            dx = (column - radius) * DILATION
            near = in_row & (x + dx >= 0) & (x + dx < width)
            at = value + (dy * value_y + dx * value_x) * UNIT
            total = tl.zeros((BLOCK_Y * BLOCK_X, BLOCK_G), SUM)
            if SHARE == BLOCK_S:
                for s in tl.static_range(BLOCK_S):
                    term = tl.load(at + s * value_s, near, other=0.0)
                    total += grads[s] * term.to(SUM)
            else:
                for s in range(SHARE):
                    term = tl.load(at + s * value_s, near, other=0.0).to(SUM)
                    other = tl.load(grad + s * grad_s, near, other=0.0)
                    total += other.to(SUM) * term
            tap = row * KERNEL + column
            if scale is not None:
                at = weight + tap * weight_t * WEIGHT_UNIT
                weights = tl.load(at, inside, other=0.0).to(SUM)
                weights = _affine(
                    weights, scale, shift, image, tap, g, groups, TAPS
                )
                if factor is None:
                    at = partial + (tile * 2 * TAPS + tap) * groups + g
                    in_group = g < groups
                    sums = tl.sum(total, 0, keep_dims=True)
                    tl.store(at, sums, in_group)
                    sums = tl.sum(total * weights, 0, keep_dims=True)
                    tl.store(at + TAPS * groups, sums, in_group)
                else:
                    at = (image * TAPS + tap) * groups + g
                    total *= tl.load(factor + at, g < groups, other=0.0)
                    total += weights
            if partial is None:
                at = out + tap * out_t * WEIGHT_UNIT
                tl.store(at, total.to(out.dtype.element_ty), inside)


def _tile(x: Tensor, groups: int) -> dict:
    """Block sizes and warps for a value-like (N, C, H, W) tensor."""
    share, (height, width) = x.shape[1] // groups, x.shape[2:]
    if x.stride(1) == 1 and x.shape[1] > 1 != x.stride(3):
        rows, columns = CHANNELS_LAST_PIXELS
        block_g = CHANNELS_LAST_BYTES // x.element_size()
    else:
        columns = power_of_two(width, CONTIGUOUS_COLUMNS)
        rows, block_g = CONTIGUOUS_PIXELS // columns, 1
    rows = power_of_two(height, rows)
    columns = power_of_two(width, columns)
    block_g = power_of_two(groups, block_g)
    warps = rows * columns * block_g // (32 * PER_THREAD)
    return dict(
        BLOCK_S=min(share, MOST_SHARES),
        BLOCK_Y=rows,
        BLOCK_X=columns,
        BLOCK_G=block_g,
        num_warps=max(1, warps),
    )


def _strides(x: Tensor, unit: int) -> list[int]:
    """Strides, but the channels', in units; 0 where they do not matter."""
    strides = [s if n > 1 else 0 for n, s in zip(x.shape, x.stride())]
    return [s if d == 1 else s // unit for d, s in enumerate(strides)]


def _unit(factor: int, *tensors: Tensor) -> int:
    """Adjacent channels that a thread may take: they divide all strides."""
    for x in tensors:
        n, c, *rest = _strides(x, 1)
        factor = math.gcd(factor, n, *rest) if c == 1 else 1
    return factor


def partial_sums(x: Tensor, weight: Tensor, *shape: int) -> Tensor:
    """An empty tensor (N, tiles, *shape, G) for sums over tiles of x."""
    groups = weight.shape[1]
    tile = _tile(x, groups)
    tiles = triton.cdiv(x.shape[2], tile['BLOCK_Y'])
    tiles *= triton.cdiv(x.shape[3], tile['BLOCK_X'])
    dtype = accumulation_dtype(x, weight)
    return x.new_empty((len(x), tiles, *shape, groups), dtype=dtype)


def launch_tiles(
    kernel, maps: tuple, tensors: tuple, others: tuple, heads: int,
    dilation: int, **flags,
):  # fmt: skip
    """Run a kernel on feature maps, some of which ``maps`` are, weight-like
    tensors (5-D), the last of them an output or not, and ``others``."""
    n, c, height, width = maps[-1].shape
    weights = [x for x in tensors if x.dim() == 5]
    groups, taps = weights[-1].shape[1:3]
    if maps[-1].numel() == 0:
        return
    tile = _tile(maps[-1], groups)
    units = {
        4: _unit(math.gcd(PER_THREAD, groups // heads), *maps),
        5: _unit(PER_THREAD, *weights),
    }
    programs = (
        n
        * triton.cdiv(groups, tile['BLOCK_G'])
        * triton.cdiv(height, tile['BLOCK_Y'])
        * triton.cdiv(width, tile['BLOCK_X'])
    )
    launch(
        kernel,
        programs,
        maps[-1],
        *tensors,
        *others,
        groups // heads // units[4],
        height,
        width,
        *(s for x in tensors for s in _strides(x, units[x.dim()])),
        SHARE=c // groups,
        HEADS=heads,
        KERNEL=round(taps**0.5),
        DILATION=dilation,
        SUM=triton_dtype(accumulation_dtype(*tensors)),
        INDEX=index_dtype(*tensors),
        UNIT=units[4],
        WEIGHT_UNIT=units[5],
        **flags,
        **tile,
    )


def forward(
    value: Tensor,
    weight: Tensor,
    kernel_size: int,
    dilation: int,
    heads: int,
    affine: tuple[Optional[Tensor], Optional[Tensor]] = (None, None),
    norms: tuple = (None,) * 4,
) -> Tensor:
    """Output of the operator; shapes as in the public function.

    The output has the memory format of ``value``. ``affine`` is a scale and a
    shift (N, K*K, G) of the weights; ``norms`` are parameters (4, C) of the
    batch norms of value and output, and their eps. SiLU follows them.
    """
    out = torch.empty_like(value)
    launch_tiles(
        _aggregate, (value, out), (value, weight, out), (*affine, *norms),
        heads,
        dilation, TRANSPOSED=False,
    )  # fmt: skip
    return out


def value_gradient(grad, value, weight, dilation, heads, affine=(None, None)):
    """Gradient of the value, in its dtype and memory format."""
    out = torch.empty_like(value)
    launch_tiles(
        _aggregate, (grad, out), (grad, weight, out), (*affine, *(None,) * 4),
        heads, dilation,
        TRANSPOSED=True,
    )  # fmt: skip
    return out


def weight_gradient(
    grad, value, weight, dilation, heads, out, others=(None,) * 4
) -> None:
    """Write :func:`_weight_gradient` to ``out``, or to the first of its
    ``others``: partial, scale, shift and factor."""
    launch_tiles(
        _weight_gradient, (grad, value), (grad, value, weight, out), others,
        heads, dilation,
    )  # fmt: skip


def backward(
    grad, value, weight, kernel_size, dilation, heads
) -> tuple[Tensor, Tensor]:
    """Gradients of value and weight, in their dtypes and memory formats."""
    grad_value = value_gradient(grad, value, weight, dilation, heads)
    grad_weight = torch.empty_like(weight)
    weight_gradient(grad, value, weight, dilation, heads, grad_weight)
    return grad_value, grad_weight
