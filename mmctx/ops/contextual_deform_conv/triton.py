"""Depth-wise convolution with a kernel per image as Triton kernels.

Feature maps are read and written as rows, one of C channels per pixel
(channels_last; others are copied once), so that a sample is four coalesced
reads. One operator takes the predictions and returns the convolution, bias
included; nothing the size of the samples is stored. T is the number of taps.

All figures here are counted (instructions in what the compiler makes for an
H100, bytes), not timed, at C = 192, T = 49 and 28 x 28 pixels (stage 2 of the
smallest network) in half precision.

Main memory is not the bound: feature map and output are 768 bytes per pixel,
offsets and mask 588, the kernel of an image 24. Nor is the L1 cache, which
gives 75 KB, 16 bytes at a time. Instructions are: a sample takes five
multiply-adds and five conversions per channel, and about 90 instructions for
its position, coefficients and addresses. So a program takes several blocks of
channels, for which it computes these once: in bfloat16, 18 instructions per
sample and channel, where one block would take 27.

Gradients are deterministic, without atomics:

- Kernel, offsets, mask: a program takes one tap of an image and all channels.
  Channels are summed for the four corners, of which the gradients by offsets
  and mask are made, and pixels for the kernel. Large outputs are cut into
  chunks, whose sums for the kernel PyTorch adds up.
- Feature map: samples are sorted by their upper left pixel, and a program sums
  those of one pixel for each of its four corners: every sample is read once.
  The four sums that meet in a pixel, 16 bytes per channel, are then added by
  PyTorch. The sort takes about 28 bytes per sample, the same for every number
  of channels: 4 for the key, sorted with an 8-byte position, and as much
  workspace.

Atomics would add 4 T times per output element: 3.8e9 times for 128 images of
the stage above. They are not offered.

Sums and positions are computed in float32, or in float64 where an input has
it. Set ``TRITON_INTERPRET=1`` before Python starts to run the kernels on CPU
tensors.
"""

# ruff: noqa: RUF005 (Triton cannot unpack a tuple into another)

from typing import Optional

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..precision import accumulation_dtype
from ..triton_support import (
    empty_rows,
    index_dtype,
    launch,
    power_of_two,
    triton_dtype,
)

#: Elements of a warp's block: each thread reads 16 bytes in half precision.
BLOCK = 256
#: Channels of a block: a pixel's are one line of the cache in half precision.
BLOCK_CHANNELS = 64
#: Blocks of channels of one program, which share positions and coefficients,
#: as far as registers go: in total, per byte of an element, and where each
#: block has four sums.
MOST_BLOCKS = 6
MOST_BLOCK_BYTES = 12
MOST_CORNER_BLOCKS = 4
#: Warps of a program of the forward pass: pixels that share cache lines.
WARPS = 2
#: Pixels whose gradients by the kernel one program sums.
CHUNK = 512

# Specialising on numbers or on where the predictions start would only cost
# recompilations as sizes vary: no vector load depends on them.
_UNSPECIALIZED = (
    'offset', 'mask', 'height', 'width', 'out_width', 'pixels', 'images',
    'offset_n', 'offset_c', 'offset_p', 'mask_n', 'mask_c', 'mask_p',
    'stride_y', 'stride_x', 'padding_y', 'padding_x', 'dilation_y',
    'dilation_x',
)  # fmt: skip


@triton.jit
def _load(at, inside, DTYPE: tl.constexpr):
    return tl.load(at, inside, other=0.0).to(DTYPE)


@triton.jit
def _store(at, x, inside):
    tl.store(at, x.to(at.dtype.element_ty), inside)


@triton.jit
def _zeros(
    ROWS: tl.constexpr, BLOCK_C: tl.constexpr, DTYPE: tl.constexpr,
    COUNT: tl.constexpr,
):  # fmt: skip
    """A tuple of COUNT blocks."""
    result = ()
    for _ in tl.static_range(COUNT):
        result = result + (tl.zeros((ROWS, BLOCK_C), DTYPE),)
    return result


@triton.jit
def _channels(ROWS: tl.constexpr, BLOCK_C: tl.constexpr):
    """Of a whole block: a row of it would go through shared memory."""
    return tl.arange(0, BLOCK_C)[None, :] + tl.zeros((ROWS, 1), tl.int32)


@triton.jit
def _axis(position, size):
    """Along one axis: the pixel before each position, the distance from it
    (NaN stays), and whether the position can affect the sample at all.

    As in the reference, positions outside [-1, size] are clamped.
    """
    free = (position >= -1) & (position <= size)
    position = tl.clamp(
        position, -1.0, size.to(position.dtype), tl.PropagateNan.ALL
    )
    before = tl.floor(position)
    before = tl.where(before == before, before, 0.0)
    return before.to(tl.int32), position - before, free


@triton.jit
def _positions(
    offset, mask, p, tap, inside, height, width, out_width,
    offset_c, offset_p, mask_c, mask_p,
    stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x,
    COLUMNS: tl.constexpr, SUM: tl.constexpr,
):  # fmt: skip
    """Of one tap at output pixels p: ``_axis`` along both axes, and the mask,
    1 where there is none."""
    offset += p * offset_p + 2 * tap * offset_c
    dy = _load(offset, inside, SUM)
    dx = _load(offset + offset_c, inside, SUM)
    scale = 1.0
    if mask is not None:
        scale = _load(mask + p * mask_p + tap * mask_c, inside, SUM)
    y = (p // out_width * stride_y - padding_y).to(SUM)
    x = (p % out_width * stride_x - padding_x).to(SUM)
    y += tap // COLUMNS * dilation_y
    x += tap % COLUMNS * dilation_x
    top, behind_y, free_y = _axis(dy + y, height)
    left, behind_x, free_x = _axis(dx + x, width)
    return top, left, behind_y, behind_x, free_y, free_x, scale


@triton.jit
def _coefficients(behind_y, behind_x, scale):
    """Of the four corners of each position, row by row."""
    upper, lower = (1 - behind_y) * scale, behind_y * scale
    left, right = 1 - behind_x, behind_x
    return upper * left, upper * right, lower * left, lower * right


@triton.jit
def _between(before, behind, distance):
    return before * (1 - distance) + behind * distance


@triton.jit
def _corners(
    image, top, left, inside, height, width,
    CHANNELS: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """Pointers to the four corners, and which are inside the feature map."""
    upper = image + (top.to(INDEX) * width + left) * CHANNELS
    lower = upper + width.to(INDEX) * CHANNELS
    above = inside & (top >= 0) & (top < height)
    below = inside & (top >= -1) & (top < height - 1)
    before = (left >= 0) & (left < width)
    behind = (left >= -1) & (left < width - 1)
    return (
        (upper, upper + CHANNELS, lower, lower + CHANNELS),
        (above & before, above & behind, below & before, below & behind),
    )


@triton.jit(do_not_specialize=_UNSPECIALIZED)
def _forward(
    image, offset, mask, weight, bias, out,
    height, width, out_width, pixels, images,
    offset_n, offset_c, offset_p, mask_n, mask_c, mask_p,
    stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x,
    CHANNELS: tl.constexpr, TAPS: tl.constexpr, COLUMNS: tl.constexpr,
    SUM: tl.constexpr, INDEX: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_C: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """out[p, c] = bias[c] + sum_t weight[t, c] mask[t, p] image[at t, c]."""
    parts: tl.constexpr = (CHANNELS - 1) // (BLOCKS * BLOCK_C) + 1
    tiles = tl.cdiv(pixels, ROWS)
    rest = tl.program_id(0)
    n = (rest // tiles // parts).to(tl.int64)
    c = rest // tiles % parts * (BLOCKS * BLOCK_C) + _channels(ROWS, BLOCK_C)
    p = (rest % tiles * ROWS + tl.arange(0, ROWS)[:, None]).to(INDEX)
    inside = p < pixels
    image += n * height * width * CHANNELS + c
    offset += n * offset_n
    if mask is not None:
        mask += n * mask_n
    weight += n * TAPS * CHANNELS + c
    out += (n * pixels + p) * CHANNELS + c
    totals = _zeros(ROWS, BLOCK_C, SUM, BLOCKS)
    for tap in range(TAPS):
        top, left, behind_y, behind_x, _, _, scale = _positions(
            offset, mask, p, tap, inside, height, width, out_width,
            offset_c, offset_p, mask_c, mask_p,
            stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x,
            COLUMNS, SUM,
        )  # fmt: skip
        coefficients = _coefficients(behind_y, behind_x, scale)
        at, near = _corners(
            image, top, left, inside, height, width, CHANNELS, INDEX
        )
        new_totals = ()
        for block in tl.static_range(BLOCKS):
            shift = block * BLOCK_C
            exists = c + shift < CHANNELS
            sample = tl.zeros((ROWS, BLOCK_C), SUM)
            for k in tl.static_range(4):
                corner = _load(at[k] + shift, near[k] & exists, SUM)
                sample += coefficients[k] * corner
            of_tap = _load(weight + tap * CHANNELS + shift, exists, SUM)
            new_totals = new_totals + (totals[block] + of_tap * sample,)
        totals = new_totals
    for block in tl.static_range(BLOCKS):
        shift = block * BLOCK_C
        total, exists = totals[block], c + shift < CHANNELS
        if bias is not None:
            total += _load(bias + c + shift, exists, SUM)
        _store(out + shift, total, inside & exists)


@triton.jit(do_not_specialize=_UNSPECIALIZED)
def _sampling_gradient(
    grad, image, offset, mask, weight, of_offset, of_mask, of_weight,
    height, width, out_width, pixels, images,
    offset_n, offset_c, offset_p, mask_n, mask_c, mask_p,
    stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x,
    CHANNELS: tl.constexpr, TAPS: tl.constexpr, COLUMNS: tl.constexpr,
    SUM: tl.constexpr, INDEX: tl.constexpr, CHUNK: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_C: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """Gradients by one tap's offsets and mask, (T, P), at some pixels, and
    the part of these pixels in that by its weights, (T, C)."""
    rest = tl.program_id(0)
    tap = rest % TAPS
    part = (rest // TAPS).to(tl.int64)
    chunks = tl.cdiv(pixels, CHUNK)
    chunk = (part % chunks).to(INDEX)
    n = part // chunks
    c = _channels(ROWS, BLOCK_C)
    image += n * height * width * CHANNELS + c
    grad += n * pixels * CHANNELS + c
    weight += (n * TAPS + tap) * CHANNELS + c
    offset += n * offset_n
    of_offset += (n * TAPS + tap) * 2 * pixels
    if mask is not None:
        mask += n * mask_n
        of_mask += (n * TAPS + tap) * pixels
    totals = _zeros(ROWS, BLOCK_C, SUM, BLOCKS)
    end = tl.minimum((chunk + 1) * CHUNK, pixels)
    for first in range(chunk * CHUNK, end, ROWS):
        p = first + tl.arange(0, ROWS)[:, None]
        inside = p < end
        top, left, behind_y, behind_x, free_y, free_x, scale = _positions(
            offset, mask, p, tap, inside, height, width, out_width,
            offset_c, offset_p, mask_c, mask_p,
            stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x,
            COLUMNS, SUM,
        )  # fmt: skip
        coefficients = _coefficients(behind_y, behind_x, scale)
        at, near = _corners(
            image, top, left, inside, height, width, CHANNELS, INDEX
        )
        by_corner = _zeros(ROWS, BLOCK_C, SUM, 4)
        new_totals = ()
        for block in tl.static_range(BLOCKS):
            shift = block * BLOCK_C
            exists = c + shift < CHANNELS
            step = _load(grad + p * CHANNELS + shift, inside & exists, SUM)
            by_sample = step * _load(weight + shift, exists, SUM)
            sample = tl.zeros((ROWS, BLOCK_C), SUM)
            new_by_corner = ()
            for k in tl.static_range(4):
                corner = _load(at[k] + shift, near[k] & exists, SUM)
                sample += coefficients[k] * corner
                total = by_corner[k] + by_sample * corner
                new_by_corner = new_by_corner + (total,)
            by_corner = new_by_corner
            new_totals = new_totals + (totals[block] + step * sample,)
        totals = new_totals
        a = tl.sum(by_corner[0], 1, keep_dims=True)
        b = tl.sum(by_corner[1], 1, keep_dims=True)
        d = tl.sum(by_corner[2], 1, keep_dims=True)
        e = tl.sum(by_corner[3], 1, keep_dims=True)
        by_y = tl.where(free_y, scale * _between(d - a, e - b, behind_x), 0.0)
        by_x = tl.where(free_x, scale * _between(b - a, e - d, behind_y), 0.0)
        _store(of_offset + p, by_y, inside)
        _store(of_offset + pixels + p, by_x, inside)
        if mask is not None:
            upper, lower = _between(a, b, behind_x), _between(d, e, behind_x)
            _store(of_mask + p, _between(upper, lower, behind_y), inside)
    for block in tl.static_range(BLOCKS):
        c = block * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
        total = tl.sum(totals[block], 0, keep_dims=True)
        at = of_weight + (part * TAPS + tap) * CHANNELS + c
        _store(at, total, c < CHANNELS)


@triton.jit(do_not_specialize=_UNSPECIALIZED)
def _keys(
    offset, mask, key,
    height, width, out_width, pixels, images,
    offset_n, offset_c, offset_p, mask_n, mask_c, mask_p,
    stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x,
    TAPS: tl.constexpr, COLUMNS: tl.constexpr,
    SUM: tl.constexpr, INDEX: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """The upper left pixel of each sample (N, P, T), numbered over all
    feature maps with a border above and to the left; the total for samples
    outside."""
    at = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    tap = (at % TAPS).to(INDEX)
    p = (at // TAPS % pixels).to(INDEX)
    n = at // TAPS // pixels
    top, left, behind_y, behind_x, _, _, _ = _positions(
        offset + n * offset_n, None, p, tap, n < images, height, width,
        out_width, offset_c, offset_p, mask_c, mask_p,
        stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x,
        COLUMNS, SUM,
    )  # fmt: skip
    outside = (top == height) | (left == width)
    # Not where the other weight is NaN, which no zero takes away.
    outside |= (top == -1) & (behind_y == 0) & (behind_x == behind_x)
    outside |= (left == -1) & (behind_x == 0) & (behind_y == behind_y)
    row = tl.where(outside, images * (height + 1), n * (height + 1) + top + 1)
    column = tl.where(outside, 0, left + 1)
    _store(key + at, row * (width + 1) + column, n < images)


@triton.jit(do_not_specialize=_UNSPECIALIZED)
def _corner_sums(
    grad, offset, mask, weight, order, starts, sums,
    height, width, out_width, pixels, images,
    offset_n, offset_c, offset_p, mask_n, mask_c, mask_p,
    stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x,
    CHANNELS: tl.constexpr, TAPS: tl.constexpr, COLUMNS: tl.constexpr,
    SUM: tl.constexpr, INDEX: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_C: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """What the samples with one upper left pixel add to the gradients of
    their four corners, (4, N, H, W, C)."""
    parts: tl.constexpr = (CHANNELS - 1) // (BLOCKS * BLOCK_C) + 1
    key = (tl.program_id(0) // parts).to(tl.int64)
    c = tl.program_id(0) % parts * (BLOCKS * BLOCK_C)
    c += tl.arange(0, BLOCK_C)[None, :]
    left = key % (width + 1) - 1
    top = key // (width + 1) % (height + 1) - 1
    n = key // (width + 1) // (height + 1)
    grad += n * pixels * CHANNELS + c
    weight += n * TAPS * CHANNELS + c
    offset += n * offset_n
    if mask is not None:
        mask += n * mask_n
    totals = _zeros(ROWS, BLOCK_C, SUM, 4 * BLOCKS)
    end = tl.load(starts + key + 1)
    for first in range(tl.load(starts + key), end, ROWS):
        s = first + tl.arange(0, ROWS)[:, None]
        near = s < end
        at = tl.load(order + s, near, other=0) - n * pixels * TAPS
        at = tl.where(near, at, 0).to(INDEX)
        p, tap = at // TAPS, at % TAPS
        _, _, behind_y, behind_x, _, _, scale = _positions(
            offset, mask, p, tap, near, height, width, out_width,
            offset_c, offset_p, mask_c, mask_p,
            stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x,
            COLUMNS, SUM,
        )  # fmt: skip
        coefficients = _coefficients(behind_y, behind_x, scale)
        new_totals = ()
        for block in tl.static_range(BLOCKS):
            shift = block * BLOCK_C
            inside = near & (c + shift < CHANNELS)
            step = _load(grad + p * CHANNELS + shift, inside, SUM)
            step *= _load(weight + tap * CHANNELS + shift, inside, SUM)
            for k in tl.static_range(4):
                total = totals[4 * block + k] + coefficients[k] * step
                new_totals = new_totals + (total,)
        totals = new_totals
    for k in tl.static_range(4):
        y, x = top + k // 2, left + k % 2
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        row = (k * images + n) * height + y
        for block in tl.static_range(BLOCKS):
            at = c + block * BLOCK_C
            total = tl.sum(totals[4 * block + k], 0, keep_dims=True)
            to = sums + (row * width + x) * CHANNELS + at
            _store(to, total, inside & (at < CHANNELS))


def _rows(x: Tensor) -> Tensor:
    """The tensor itself if in channels_last format, else a copy."""
    return x.contiguous(memory_format=torch.channels_last)


def _by_channel(weight: Tensor) -> Tensor:
    """(N, C, 1, KH, KW) to (N, T, C)."""
    return weight.flatten(1, 2).flatten(2).transpose(1, 2).contiguous()


def _prediction(name: str, x: Optional[Tensor]) -> dict:
    """Offset or mask, its pixels at one distance, and the strides."""
    x = None if x is None else x.flatten(2)
    strides = (0, 0, 0) if x is None else x.stride()
    names = (f'{name}_n', f'{name}_c', f'{name}_p')
    return dict(zip(names, strides), **{name: x})


def _common(
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    mask: Optional[Tensor],
    geometry: list[int],
    *others: Optional[Tensor],
) -> dict:
    """Arguments of all kernels; the others only matter for dtypes."""
    tensors = (x, offset, weight, mask, *others)
    names = ('stride', 'padding', 'dilation')
    names = [f'{name}_{axis}' for name in names for axis in 'yx']
    return dict(
        zip(names, geometry),
        **_prediction('offset', offset),
        **_prediction('mask', mask),
        images=x.shape[0],
        height=x.shape[2],
        width=x.shape[3],
        out_width=offset.shape[3],
        pixels=offset.shape[2:].numel(),
        TAPS=weight.shape[3:].numel(),
        COLUMNS=weight.shape[4],
        SUM=triton_dtype(accumulation_dtype(*tensors)),
        INDEX=index_dtype(*tensors),
    )


def _tile(x: Tensor, most_blocks: int, warps: int, whole: bool) -> dict:
    """How channels are cut into blocks, equally many for each program or
    ``whole`` for one; and the rows of a program."""
    channels = x.shape[1]
    most_blocks = min(most_blocks, MOST_BLOCK_BYTES // x.element_size())
    block = power_of_two(channels, BLOCK_CHANNELS)
    while whole and channels > most_blocks * block:
        block *= 2
    blocks = triton.cdiv(channels, block)
    return dict(
        CHANNELS=channels,
        ROWS=max(BLOCK // block, 1) * warps,
        BLOCK_C=block,
        BLOCKS=max(k for k in range(1, most_blocks + 1) if blocks % k == 0),
        num_warps=warps,
    )


def _parts(tile: dict) -> int:
    return triton.cdiv(tile['CHANNELS'], tile['BLOCKS'] * tile['BLOCK_C'])


def forward(
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Optional[Tensor],
    mask: Optional[Tensor],
    geometry: list[int],
) -> Tensor:
    """Output of the operator; shapes as in the public function.

    ``geometry`` is stride, padding and dilation, height before width each.
    """
    out = empty_rows(x, offset.shape[2:])
    common = _common(x, offset, weight, mask, geometry, bias)
    tile = _tile(x, MOST_BLOCKS, WARPS, whole=False)
    launch(
        _forward,
        len(x) * _parts(tile) * triton.cdiv(common['pixels'], tile['ROWS']),
        common['offset'],
        image=_rows(x),
        weight=_by_channel(weight),
        bias=None if bias is None else bias.contiguous(),
        out=out,
        **common,
        **tile,
    )
    return out


def backward_of_sampling(
    grad: Tensor,
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    mask: Optional[Tensor],
    geometry: list[int],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of offset, weight and mask, contiguous and in their dtypes;
    that of no mask is empty."""
    n, channels = x.shape[:2]
    of_offset = offset.new_empty(offset.shape)
    of_mask = (
        offset.new_empty(0) if mask is None else mask.new_empty(mask.shape)
    )
    common = _common(x, offset, weight, mask, geometry, grad)
    chunks = triton.cdiv(common['pixels'], CHUNK)
    of_weight = x.new_empty(
        (n, chunks, common['TAPS'], channels),
        dtype=accumulation_dtype(grad, x, offset, weight, mask),
    )
    launch(
        _sampling_gradient,
        of_weight[..., 0].numel(),
        common['offset'],
        grad=_rows(grad),
        image=_rows(x),
        weight=_by_channel(weight),
        of_offset=of_offset,
        of_mask=of_mask,
        of_weight=of_weight,
        CHUNK=CHUNK,
        **common,
        **_tile(x, MOST_BLOCKS, 1, whole=True),
    )
    of_weight = of_weight.sum(1) if chunks > 1 else of_weight[:, 0]
    result = weight.new_empty(weight.shape)
    result.flatten(1, 2).flatten(2).copy_(of_weight.transpose(1, 2))
    return of_offset, result, of_mask


def _sort(common: dict) -> tuple[Tensor, Tensor]:
    """Samples ordered by :func:`_keys`, and where each key's run starts."""
    images, pixels = common['images'], common['pixels']
    keys = images * (common['height'] + 1) * (common['width'] + 1)
    samples = images * pixels * common['TAPS']
    key = common['offset'].new_empty(
        samples, dtype=torch.int32 if keys < 2**31 else torch.int64
    )
    programs = triton.cdiv(samples, BLOCK)
    launch(
        _keys,
        programs,
        common['offset'],
        key=key,
        ROWS=BLOCK,
        num_warps=1,
        **common,
    )
    key, order = key.sort(stable=True)
    every_key = torch.arange(keys + 1, dtype=key.dtype, device=key.device)
    return order, torch.searchsorted(key, every_key)


def backward_of_map(
    grad: Tensor,
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    mask: Optional[Tensor],
    geometry: list[int],
) -> Tensor:
    """Gradient of ``x`` in its dtype, in channels_last memory format."""
    n, channels, height, width = x.shape
    common = _common(x, offset, weight, mask, geometry, grad)
    tile = _tile(x, MOST_CORNER_BLOCKS, 1, whole=False)
    sums = x.new_empty(
        (4, n, height, width, channels),
        dtype=accumulation_dtype(grad, x, offset, weight, mask),
    )
    order, starts = _sort(common)
    launch(
        _corner_sums,
        (len(starts) - 1) * _parts(tile),
        common['offset'],
        grad=_rows(grad),
        weight=_by_channel(weight),
        order=order,
        starts=starts,
        sums=sums,
        **common,
        **tile,
    )
    return sums.sum(0).permute(0, 3, 1, 2).to(x.dtype)
