"""Local aggregation as Triton kernels: forward and both gradients.

Bytes. With b bytes a number and S channels to a weight (CoT: S = 8), each
output number needs 2 b for value and output and K * K / S * b for its share of
the weights: at K = 3 and S = 8 that is 3.125 b. The work on them is
2 * K * K operations, far below what the device does in that time, so memory
decides, and the kernels are built to touch main memory once per number:

- A program takes a rectangle of pixels, a block of weight channels, and *all*
  channels that share them. It loads each weight once and uses it S times from
  registers.
- The K * K shifted reads of the values overlap, so all but the rectangle's rim
  come from the first cache; a rectangle, because a strip of one row would
  fetch every row K times from the second.
- Numbers that lie next to each other in memory go to threads next to each
  other: channels for channels_last, columns for contiguous maps. Strides are
  arguments, so neither format, nor a view, is ever copied. In channels_last
  every shift is a multiple of a whole pixel, and reads are 16 bytes wide.
- The gradient of the values gathers as the forward pass does, from mirrored
  taps; that of the weights sums over the S channels inside a program. There
  are no atomics, and a tile's shape follows from the operands' shapes alone
  rather than from timings, so repeats are equal to the bit, between processes
  too.

Sums are taken in float32, or in float64 where an input has it. Set
``TRITON_INTERPRET=1`` before Python starts to run the kernels on CPU tensors.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .reference import accumulation_dtype

#: Sides of a tile with channels (rows x columns x channel bytes) or columns
#: (pixels, most columns) innermost, numbers to a thread, and most warps.
CHANNELS_LAST_PIXELS = (8, 8)
CHANNELS_LAST_BYTES = 64
CONTIGUOUS_PIXELS = 512
CONTIGUOUS_COLUMNS = 64
PER_THREAD = {True: 64, False: 32}
MAX_WARPS = 8

_TL_DTYPE = {torch.float32: tl.float32, torch.float64: tl.float64}
# A row stride that Triton knows to be a multiple of 16 makes it give each
# thread several neighbouring columns of a contiguous map, which the reads
# shifted by one column then fetch one by one. Sizes would only cost
# recompilations.
_UNSPECIALIZED = (
    'height',
    'width',
    'value_y',
    'weight_y',
    'out_y',
    'grad_y',
)


@triton.jit
def _position(
    height,
    width,
    GROUPS: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
    BLOCK_G: tl.constexpr,
    INDEX: tl.constexpr,
):
    """Image, rows, columns (1, P, 1) and weight channels (1, 1, G)."""
    tiles_x = tl.cdiv(width, BLOCK_X)
    tiles_y = tl.cdiv(height, BLOCK_Y)
    blocks_g: tl.constexpr = (GROUPS + BLOCK_G - 1) // BLOCK_G
    rest = tl.program_id(0)
    tile_x = rest % tiles_x
    rest = rest // tiles_x
    tile_y = rest % tiles_y
    rest = rest // tiles_y
    block_g = rest % blocks_g
    image = (rest // blocks_g).to(tl.int64)
    pixel = tl.arange(0, BLOCK_Y * BLOCK_X)[None, :, None]
    y = (tile_y * BLOCK_Y + pixel // BLOCK_X).to(INDEX)
    x = (tile_x * BLOCK_X + pixel % BLOCK_X).to(INDEX)
    g = (block_g * BLOCK_G + tl.arange(0, BLOCK_G)[None, None, :]).to(INDEX)
    return image, y, x, g


@triton.jit(do_not_specialize=_UNSPECIALIZED)
def _aggregate(
    value,
    weight,
    out,
    height,
    width,
    value_n,
    value_c,
    value_y,
    value_x,
    weight_n,
    weight_g,
    weight_t,
    weight_y,
    weight_x,
    out_n,
    out_c,
    out_y,
    out_x,
    GROUPS: tl.constexpr,
    SHARE: tl.constexpr,
    KERNEL: tl.constexpr,
    TRANSPOSED: tl.constexpr,
    SUM: tl.constexpr,
    INDEX: tl.constexpr,
    UNIT: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
    BLOCK_G: tl.constexpr,
):
    """out[c, p] = sum_t weight[c % G, t, p] value[c, p + t].

    TRANSPOSED: sum_t weight[c % G, -t, p + t] value[c, p + t], the gradient
    of the values where ``value`` is that of the output.
    """
    image, y, x, g = _position(
        height, width, GROUPS, BLOCK_Y, BLOCK_X, BLOCK_G, INDEX
    )
    inside = (y < height) & (x < width) & (g < GROUPS)
    s = tl.arange(0, BLOCK_S)[:, None, None].to(INDEX)
    channel = s * GROUPS + g
    value += image * value_n
    weight += image * weight_n
    out += image * out_n
    total = tl.zeros((BLOCK_S, BLOCK_Y * BLOCK_X, BLOCK_G), SUM)
    for tap in tl.static_range(KERNEL * KERNEL):
        yy = y + (tap // KERNEL - KERNEL // 2)
        xx = x + (tap % KERNEL - KERNEL // 2)
        near = inside & (yy >= 0) & (yy < height) & (xx >= 0) & (xx < width)
        if TRANSPOSED:
            at = (KERNEL * KERNEL - 1 - tap) * weight_t
            at += yy * weight_y + xx * weight_x
        else:
            at = tap * weight_t + y * weight_y + x * weight_x
        scale = tl.load(weight + g * weight_g + at, near, other=0.0)
        at = channel * value_c + yy * (value_y * UNIT) + xx * value_x
        term = tl.load(value + at, near & (s < SHARE), other=0.0)
        total += scale.to(SUM) * term.to(SUM)
    at = channel * out_c + y * (out_y * UNIT) + x * out_x
    tl.store(
        out + at, total.to(out.dtype.element_ty), inside & (s < SHARE)
    )


@triton.jit(do_not_specialize=_UNSPECIALIZED)
def _weight_gradient(
    grad,
    value,
    out,
    height,
    width,
    grad_n,
    grad_c,
    grad_y,
    grad_x,
    value_n,
    value_c,
    value_y,
    value_x,
    out_n,
    out_g,
    out_t,
    out_y,
    out_x,
    GROUPS: tl.constexpr,
    SHARE: tl.constexpr,
    KERNEL: tl.constexpr,
    SUM: tl.constexpr,
    INDEX: tl.constexpr,
    UNIT: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_X: tl.constexpr,
    BLOCK_G: tl.constexpr,
):
    """out[g, t, p] = sum_s grad[s G + g, p] value[s G + g, p + t]."""
    image, y, x, g = _position(
        height, width, GROUPS, BLOCK_Y, BLOCK_X, BLOCK_G, INDEX
    )
    inside = (y < height) & (x < width) & (g < GROUPS)
    s = tl.arange(0, BLOCK_S)[:, None, None].to(INDEX)
    channel = s * GROUPS + g
    grad += image * grad_n
    value += image * value_n
    out += image * out_n
    at = channel * grad_c + y * (grad_y * UNIT) + x * grad_x
    scale = tl.load(grad + at, inside & (s < SHARE), other=0.0).to(SUM)
    for tap in tl.static_range(KERNEL * KERNEL):
        yy = y + (tap // KERNEL - KERNEL // 2)
        xx = x + (tap % KERNEL - KERNEL // 2)
        near = inside & (yy >= 0) & (yy < height) & (xx >= 0) & (xx < width)
        at = channel * value_c + yy * (value_y * UNIT) + xx * value_x
        term = tl.load(value + at, near & (s < SHARE), other=0.0)
        total = tl.sum(scale * term.to(SUM), axis=0, keep_dims=True)
        at = g * out_g + tap * out_t + y * out_y + x * out_x
        tl.store(out + at, total.to(out.dtype.element_ty), inside)


def _power_of_two(x: int, most: int) -> int:
    """The next power of two, or ``most`` if that is less."""
    return min(triton.next_power_of_2(x), most)


def _tile(x: Tensor, groups: int) -> dict:
    """Block sizes and warps for a value-like (N, C, H, W) tensor."""
    share, (height, width) = x.shape[1] // groups, x.shape[2:]
    channels_last = x.stride(1) == 1 and x.shape[1] > 1 != x.stride(3)
    if channels_last:
        block_y, block_x = CHANNELS_LAST_PIXELS
        block_g = CHANNELS_LAST_BYTES // x.element_size()
    else:
        block_x = _power_of_two(width, CONTIGUOUS_COLUMNS)
        block_y, block_g = CONTIGUOUS_PIXELS // block_x, 1
    tile = dict(
        BLOCK_S=triton.next_power_of_2(share),
        BLOCK_Y=_power_of_two(height, block_y),
        BLOCK_X=_power_of_two(width, block_x),
        BLOCK_G=_power_of_two(groups, block_g),
    )
    per_warp = 32 * PER_THREAD[channels_last]
    # Unusually many channels to a weight: fewer pixels, then.
    for side in ('BLOCK_Y', 'BLOCK_X', 'BLOCK_G'):
        while _numbers(tile) > MAX_WARPS * per_warp and tile[side] > 1:
            tile[side] //= 2
    tile['num_warps'] = max(1, min(_numbers(tile) // per_warp, MAX_WARPS))
    return tile


def _numbers(tile: dict) -> int:
    return (
        tile['BLOCK_S'] * tile['BLOCK_Y'] * tile['BLOCK_X'] * tile['BLOCK_G']
    )


def _span(x: Tensor) -> int:
    """Elements from an image's first to its last."""
    return sum((n - 1) * s for n, s in zip(x.shape[1:], x.stride()[1:]))


def _launch(kernel, maps: tuple, weight: Tensor, tensors: tuple, **flags):
    """Run a kernel on ``tensors``, of which ``maps`` are (N, C, H, W).

    Row strides of maps are passed in units of 16 numbers where that can be,
    which lets the compiler read several channels at once.
    """
    n, c, height, width = maps[-1].shape
    groups, taps = weight.shape[1:3]
    if maps[-1].numel() == 0:
        return
    tile = _tile(maps[-1], groups)
    unit = 16 if all(x.stride(2) % 16 == 0 for x in maps) else 1
    if tile['BLOCK_G'] == 1:
        unit = 1
    strides = [
        stride // unit if x.dim() == 4 and dim == 2 else stride
        for x in tensors
        for dim, stride in enumerate(x.stride())
    ]
    programs = (
        n
        * triton.cdiv(groups, tile['BLOCK_G'])
        * triton.cdiv(height, tile['BLOCK_Y'])
        * triton.cdiv(width, tile['BLOCK_X'])
    )
    # Tensors of one device, which need not be the current one.
    with torch.cuda.device_of(maps[-1]):
        kernel[(programs,)](
            *tensors,
            height,
            width,
            *strides,
            GROUPS=groups,
            SHARE=c // groups,
            KERNEL=round(taps**0.5),
            SUM=_TL_DTYPE[accumulation_dtype(*tensors)],
            INDEX=tl.int32 if max(map(_span, tensors)) < 2**31 else tl.int64,
            UNIT=unit,
            **flags,
            **tile,
        )


def forward(value: Tensor, weight: Tensor, kernel_size: int) -> Tensor:
    """Output of the operator; shapes as in the public function.

    The output has the memory format of ``value``.
    """
    out = torch.empty_like(value)
    tensors = (value, weight, out)
    _launch(_aggregate, (value, out), weight, tensors, TRANSPOSED=False)
    return out


def backward(
    grad: Tensor, value: Tensor, weight: Tensor, kernel_size: int
) -> tuple[Tensor, Tensor]:
    """Gradients of value and weight, in their dtypes and memory formats."""
    grad_value = torch.empty_like(value)
    tensors = (grad, weight, grad_value)
    _launch(
        _aggregate, (grad, grad_value), weight, tensors, TRANSPOSED=True
    )
    grad_weight = torch.empty_like(weight)
    tensors = (grad, value, grad_weight)
    _launch(_weight_gradient, (grad, value), weight, tensors)
    return grad_value, grad_weight
