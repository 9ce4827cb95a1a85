"""Depth-wise convolution with a kernel per image as Triton kernels.

Feature maps are read and written as rows, one of C channels per pixel
(channels_last; others are copied once), so that a sample is four coalesced
reads. One operator takes the predictions and returns the convolution, bias
included; nothing the size of the samples is stored. T is the number of taps.

Bytes per output pixel, with b bytes an element, at C = 192, T = 49 and 28 x 28
pixels (stage 2 of the smallest network):

- Feature map and output, C elements each: 2 C b = 384 b.
- Offsets and mask: 3 T b = 147 b. The four corner weights and the index of
  ``corners()``, made beforehand, are 5 T elements of 4 bytes, written and read
  again: 1960 bytes beside these 294 (b = 2). So the kernels compute them.
- The kernel of an image: T C / P = 12 b over P = 784 pixels, three times that
  with the copy that puts its channels side by side. At 7 x 7 pixels (C = 768)
  the copy moves as much as feature map and output; without it, a warp would
  read its 32 channels from 32 places for every tap.

Together about 1.1 KB in half precision. Reads from the L1 cache are far more:
4 T C b = 75 KB. They, not main memory, bound the forward pass, and each is 16
bytes wide.

Gradients are deterministic, without atomics:

- Kernel, offsets, mask: a program takes one tap of an image and all channels.
  Channels are summed for the offsets and the mask, pixels for the kernel.
  Large outputs are cut into chunks, whose sums for the kernel PyTorch adds up.
- Feature map: sorting finds the samples that read a pixel. They are sorted by
  their upper left pixel only, a quarter of what they read; those around a
  pixel are then two runs of the sorted list, as pixels above each other are
  apart but neighbours are not. The sort takes about 28 bytes per sample, the
  same for every number of channels: 4 for the key, sorted with an 8-byte
  position, and as much workspace.

Atomics would add 4 T times per output element: 3.8e9 times for 128 images of
the stage above, where the sort takes 4.9e6 samples and each pixel then reads
its 4 T samples once. They are not offered. All figures here are counted, not
timed.

Sums and positions are computed in float32, or in float64 where an input has
it. Set ``TRITON_INTERPRET=1`` before Python starts to run the kernels on CPU
tensors.
"""

from typing import Optional

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..precision import accumulation_dtype
from ..triton_support import (
    empty_rows,
    index_dtype,
    power_of_two,
    triton_dtype,
)

#: Elements of a tile, and of a thread: 16 bytes in half precision.
TILE = 1024
PER_THREAD = 8
#: Channels of a tile, if a program does not need all of them.
TILE_CHANNELS = 64
#: Samples of one pixel that are summed at a time.
TILE_SAMPLES = 16
#: Pixels whose gradients by the kernel one program sums.
CHUNK = 512

# Specialising on numbers or on where the predictions start would only cost
# recompilations as sizes vary: no vector load depends on them.
_UNSPECIALIZED = (
    'offset', 'mask', 'height', 'width', 'out_width', 'pixels', 'samples',
    'offset_n', 'offset_c', 'offset_p', 'mask_n', 'mask_c', 'mask_p',
    'stride_y', 'stride_x', 'padding_y', 'padding_x', 'dilation_y',
    'dilation_x',
)  # fmt: skip


@triton.jit
def _axis(position, size):
    """Along one axis: the pixel before each position, the distance from it
    (NaN stays), and whether the position can affect the sample at all.

    As in the reference, positions outside [-1, size] are clamped.
    """
    free = (position >= -1) & (position <= size)
    position = tl.where(position < -1, -1.0, position)
    position = tl.where(position > size, size.to(position.dtype), position)
    before = tl.floor(position)
    before = tl.where(before == before, before, 0.0)
    return before.to(tl.int32), position - before, free


@triton.jit
def _start(
    p, out_width, stride_y, stride_x, padding_y, padding_x, SUM: tl.constexpr
):
    """Where the kernel starts at output pixels p."""
    y = p // out_width * stride_y - padding_y
    x = p % out_width * stride_x - padding_x
    return y.to(SUM), x.to(SUM)


@triton.jit
def _positions(
    offset, offset_c, y, x, tap, inside, height, width,
    dilation_y, dilation_x, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Of one tap whose kernel starts at (y, x): ``_axis`` along both axes."""
    offset += 2 * tap * offset_c
    dy = tl.load(offset, inside, other=0.0).to(y.dtype)
    dx = tl.load(offset + offset_c, inside, other=0.0).to(y.dtype)
    y += tap // COLUMNS * dilation_y
    x += tap % COLUMNS * dilation_x
    top, behind_y, free_y = _axis(dy + y, height)
    left, behind_x, free_x = _axis(dx + x, width)
    return top, left, behind_y, behind_x, free_y, free_x


@triton.jit
def _load_mask(mask, shift, inside, like):
    """Elements of the mask; ones where there is none."""
    if mask is None:
        return tl.full(like.shape, 1.0, like.dtype)
    else:
        return tl.load(mask + shift, inside, other=0.0).to(like.dtype)


@triton.jit
def _store(at, x, inside):
    tl.store(at, x.to(at.dtype.element_ty), inside)


@triton.jit
def _load_pixel(
    image, y, x, inside, height, width,
    CHANNELS: tl.constexpr, SUM: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """Pixels of a feature map at (y, x), zeros outside it."""
    inside = inside & (y >= 0) & (y < height) & (x >= 0) & (x < width)
    at = (y.to(INDEX) * width + x) * CHANNELS
    return tl.load(image + at, inside, other=0.0).to(SUM)


@triton.jit(do_not_specialize=_UNSPECIALIZED)
def _forward(
    image, offset, mask, weight, bias, out,
    height, width, out_width, pixels,
    offset_n, offset_c, offset_p, mask_n, mask_c, mask_p,
    stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x,
    CHANNELS: tl.constexpr, TAPS: tl.constexpr, COLUMNS: tl.constexpr,
    SUM: tl.constexpr, INDEX: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """out[p, c] = bias[c] + sum_t weight[t, c] mask[t, p] image[at t, c]."""
    tiles = tl.cdiv(pixels, BLOCK_P)
    rest = tl.program_id(0)
    tile = rest % tiles
    rest = rest // tiles
    blocks: tl.constexpr = (CHANNELS + BLOCK_C - 1) // BLOCK_C
    n = (rest // blocks).to(tl.int64)
    c = rest % blocks * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
    p = (tile * BLOCK_P + tl.arange(0, BLOCK_P)[:, None]).to(INDEX)
    y, x = _start(p, out_width, stride_y, stride_x, padding_y, padding_x, SUM)
    inside = (p < pixels) & (c < CHANNELS)
    image += n * height * width * CHANNELS + c
    offset += n * offset_n + p * offset_p
    mask_at = n * mask_n + p * mask_p
    weight += n * TAPS * CHANNELS + c
    total = tl.zeros((BLOCK_P, BLOCK_C), SUM)
    if bias is not None:
        total += tl.load(bias + c, c < CHANNELS, other=0.0).to(SUM)
    for tap in range(TAPS):
        top, left, behind_y, behind_x, _, _ = _positions(
            offset, offset_c, y, x, tap, p < pixels, height, width,
            dilation_y, dilation_x, COLUMNS,
        )  # fmt: skip
        scale = _load_mask(mask, mask_at + tap * mask_c, p < pixels, behind_y)
        sample = tl.zeros((BLOCK_P, BLOCK_C), SUM)
        for dy in tl.static_range(2):
            of_y = (behind_y if dy else 1 - behind_y) * scale
            for dx in tl.static_range(2):
                corner = _load_pixel(
                    image, top + dy, left + dx, inside, height, width,
                    CHANNELS, SUM, INDEX,
                )  # fmt: skip
                sample += of_y * (behind_x if dx else 1 - behind_x) * corner
        of_tap = tl.load(weight + tap * CHANNELS, c < CHANNELS, other=0.0)
        total += of_tap.to(SUM) * sample
    _store(out + (n * pixels + p) * CHANNELS + c, total, inside)


@triton.jit(do_not_specialize=_UNSPECIALIZED)
def _sampling_gradient(
    grad, image, offset, mask, weight, of_offset, of_mask, of_weight,
    height, width, out_width, pixels,
    offset_n, offset_c, offset_p, mask_n, mask_c, mask_p,
    stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x,
    CHANNELS: tl.constexpr, TAPS: tl.constexpr, COLUMNS: tl.constexpr,
    SUM: tl.constexpr, INDEX: tl.constexpr, CHUNK: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Gradients by one tap's offsets and mask, (T, P), at some pixels, and
    the part of these pixels in that by its weights, (T, C)."""
    rest = tl.program_id(0)
    tap = rest % TAPS
    part = (rest // TAPS).to(tl.int64)
    chunks = tl.cdiv(pixels, CHUNK)
    chunk = (part % chunks).to(INDEX)
    n = part // chunks
    blocks: tl.constexpr = (CHANNELS + BLOCK_C - 1) // BLOCK_C
    c = tl.arange(0, BLOCK_C)[None, :]
    image += n * height * width * CHANNELS + c
    grad += n * pixels * CHANNELS + c
    weight += (n * TAPS + tap) * CHANNELS + c
    of_weight += (part * TAPS + tap) * CHANNELS + c
    offset += n * offset_n
    of_offset += (n * TAPS + tap) * 2 * pixels
    if mask is not None:
        of_mask += (n * TAPS + tap) * pixels
    totals = ()
    for _ in tl.static_range(blocks):
        zeros = tl.zeros((BLOCK_P, BLOCK_C), SUM)
        totals = totals + (zeros,)  # noqa: RUF005 (Triton cannot unpack)
    end = tl.minimum((chunk + 1) * CHUNK, pixels)
    for first in range(chunk * CHUNK, end, BLOCK_P):
        p = first + tl.arange(0, BLOCK_P)[:, None]
        y, x = _start(
            p, out_width, stride_y, stride_x, padding_y, padding_x, SUM
        )
        top, left, behind_y, behind_x, free_y, free_x = _positions(
            offset + p * offset_p, offset_c, y, x, tap, p < end, height, width,
            dilation_y, dilation_x, COLUMNS,
        )  # fmt: skip
        mask_at = n * mask_n + p * mask_p + tap * mask_c
        scale = _load_mask(mask, mask_at, p < end, behind_y)
        by_y = tl.zeros((BLOCK_P, BLOCK_C), SUM)
        by_x = tl.zeros((BLOCK_P, BLOCK_C), SUM)
        by_scale = tl.zeros((BLOCK_P, BLOCK_C), SUM)
        new_totals = ()
        for block in tl.static_range(blocks):
            start = block * BLOCK_C
            inside = (p < end) & (start + c < CHANNELS)
            step = tl.load(grad + p * CHANNELS + start, inside, other=0.0)
            step = step.to(SUM)
            corners = ()
            for k in tl.static_range(4):
                corner = _load_pixel(
                    image + start, top + k // 2, left + k % 2, inside, height,
                    width, CHANNELS, SUM, INDEX,
                )  # fmt: skip
                corners = corners + (corner,)  # noqa: RUF005
            upper_step = corners[1] - corners[0]
            lower_step = corners[3] - corners[2]
            upper = corners[0] + behind_x * upper_step
            lower = corners[2] + behind_x * lower_step
            sample = upper + behind_y * (lower - upper)
            total = totals[block] + step * (scale * sample)
            new_totals = new_totals + (total,)  # noqa: RUF005
            of_tap = tl.load(weight + start, start + c < CHANNELS, other=0.0)
            step *= of_tap.to(SUM)
            by_y += step * (lower - upper)
            by_x += step * (upper_step + behind_y * (lower_step - upper_step))
            by_scale += step * sample
        totals = new_totals
        by_y = scale * tl.sum(by_y, 1, keep_dims=True)
        by_x = scale * tl.sum(by_x, 1, keep_dims=True)
        _store(of_offset + p, tl.where(free_y, by_y, 0.0), p < end)
        _store(of_offset + pixels + p, tl.where(free_x, by_x, 0.0), p < end)
        if mask is not None:
            by_scale = tl.sum(by_scale, 1, keep_dims=True)
            _store(of_mask + p, by_scale, p < end)
    for block in tl.static_range(blocks):
        start = block * BLOCK_C
        total = tl.sum(totals[block], 0, keep_dims=True)
        _store(of_weight + start, total, start + c < CHANNELS)


@triton.jit(do_not_specialize=_UNSPECIALIZED)
def _keys(
    offset, key,
    height, width, out_width, pixels, samples,
    offset_n, offset_c, offset_p,
    stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x,
    TAPS: tl.constexpr, COLUMNS: tl.constexpr,
    SUM: tl.constexpr, INDEX: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The upper left pixel of each sample, numbered over all feature
    maps with a border of one; the total for samples outside."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    p = (at % pixels).to(INDEX)
    tap = (at // pixels % TAPS).to(INDEX)
    n = at // pixels // TAPS
    y, x = _start(p, out_width, stride_y, stride_x, padding_y, padding_x, SUM)
    top, left, behind_y, behind_x, _, _ = _positions(
        offset + n * offset_n + p * offset_p, offset_c, y, x, tap,
        at < samples, height, width, dilation_y, dilation_x, COLUMNS,
    )  # fmt: skip
    outside = (top == height) | (left == width)
    # Not where the other weight is NaN, which no zero takes away.
    outside |= (top == -1) & (behind_y == 0) & (behind_x == behind_x)
    outside |= (left == -1) & (behind_x == 0) & (behind_y == behind_y)
    row = n * (height + 2) + top + 1
    row = tl.where(outside, samples // pixels // TAPS * (height + 2), row)
    column = tl.where(outside, 0, left + 1)
    result = row * (width + 2) + column
    _store(key + at, result, at < samples)


@triton.jit(do_not_specialize=_UNSPECIALIZED)
def _image_gradient(
    grad, offset, mask, weight, order, starts, out,
    height, width, out_width, pixels,
    offset_n, offset_c, offset_p, mask_n, mask_c, mask_p,
    stride_y, stride_x, padding_y, padding_x, dilation_y, dilation_x,
    CHANNELS: tl.constexpr, TAPS: tl.constexpr, COLUMNS: tl.constexpr,
    SUM: tl.constexpr, INDEX: tl.constexpr,
    BLOCK_S: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """One pixel of the feature map: the sum over the samples that read it."""
    blocks: tl.constexpr = (CHANNELS + BLOCK_C - 1) // BLOCK_C
    rest = tl.program_id(0)
    c = rest % blocks * BLOCK_C + tl.arange(0, BLOCK_C)[None, :]
    rest = rest // blocks
    column = rest % width
    rest = rest // width
    row = rest % height
    n = (rest // height).to(tl.int64)
    grad += n * pixels * CHANNELS + c
    weight += n * TAPS * CHANNELS + c
    offset += n * offset_n
    total = tl.zeros((BLOCK_S, BLOCK_C), SUM)
    for above in tl.static_range(2):
        # Samples whose upper left pixel is (row - above, column - 1 or 0).
        key = (n * (height + 2) + row - above + 1) * (width + 2) + column
        end = tl.load(starts + key + 2)
        for first in range(tl.load(starts + key), end, BLOCK_S):
            s = first + tl.arange(0, BLOCK_S)[:, None]
            near = s < end
            at = tl.load(order + s, near, other=0) - n * TAPS * pixels
            at = tl.where(near, at, 0).to(INDEX)
            tap, p = at // pixels, at % pixels
            y, x = _start(
                p, out_width, stride_y, stride_x, padding_y, padding_x, SUM
            )
            _, left, behind_y, behind_x, _, _ = _positions(
                offset + p * offset_p, offset_c, y, x, tap, near, height,
                width, dilation_y, dilation_x, COLUMNS,
            )  # fmt: skip
            mask_at = n * mask_n + p * mask_p + tap * mask_c
            scale = _load_mask(mask, mask_at, near, behind_y)
            scale *= behind_y if above else 1 - behind_y
            scale *= tl.where(left == column, 1 - behind_x, behind_x)
            inside = near & (c < CHANNELS)
            step = tl.load(grad + p * CHANNELS, inside, other=0.0).to(SUM)
            of_tap = tl.load(weight + tap * CHANNELS, inside, other=0.0)
            total += scale * (step * of_tap.to(SUM))
    out += ((n * height + row) * width + column) * CHANNELS
    total = tl.sum(total, 0, keep_dims=True)
    _store(out + c, total, c < CHANNELS)


def _rows(x: Tensor) -> Tensor:
    """The tensor itself if in channels_last format, else a copy."""
    return x.contiguous(memory_format=torch.channels_last)


def _by_channel(weight: Tensor) -> Tensor:
    """(N, C, 1, KH, KW) to (N, T, C)."""
    return weight.flatten(1, 2).flatten(2).transpose(1, 2).contiguous()


def _sum_dtype(*tensors: Optional[Tensor]) -> torch.dtype:
    return accumulation_dtype(*(x for x in tensors if x is not None))


def _common(
    image: Tensor,
    offset: Tensor,
    weight: Tensor,
    others: tuple,
    geometry: list[int],
) -> dict:
    """Arguments of all kernels: a feature map, predictions and the rest."""
    tensors = (image, offset, weight, *others)
    height, width = image.shape[2:]
    out_width = offset.shape[3]
    offset = offset.flatten(2)
    names = ('stride', 'padding', 'dilation')
    names = [f'{name}_{axis}' for name in names for axis in 'yx']
    return dict(
        **dict(zip(names, geometry)),
        **_strided('offset', offset),
        height=height,
        width=width,
        out_width=out_width,
        pixels=offset.shape[2],
        TAPS=weight.shape[3:].numel(),
        COLUMNS=weight.shape[4],
        SUM=triton_dtype(_sum_dtype(*tensors)),
        INDEX=index_dtype(*tensors),
    )


def _strided(name: str, x: Optional[Tensor]) -> dict:
    """A tensor (N, C, P) or None as an argument, and its strides."""
    strides = (0, 0, 0) if x is None else x.stride()
    names = (f'{name}_n', f'{name}_c', f'{name}_p')
    return dict(zip(names, strides), **{name: x})


def _of_mask(mask: Optional[Tensor]) -> dict:
    return _strided('mask', None if mask is None else mask.flatten(2))


def _tile(rows: int, channels: int, block: int, name: str) -> dict:
    """Rows and channels of a tile, and its warps."""
    block = power_of_two(channels, block)
    rows = power_of_two(rows, max(TILE // block, 1))
    warps = rows * block // (32 * PER_THREAD)
    return {name: rows, 'BLOCK_C': block, 'num_warps': max(1, warps)}


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
    n, channels = x.shape[:2]
    out = empty_rows(x, offset.shape[2:])
    x = _rows(x)
    common = _common(x, offset, weight, (bias, mask), geometry)
    tile = _tile(common['pixels'], channels, TILE_CHANNELS, 'BLOCK_P')
    programs = (
        n
        * triton.cdiv(common['pixels'], tile['BLOCK_P'])
        * triton.cdiv(channels, tile['BLOCK_C'])
    )
    if programs:
        # The tensors share a device, which need not be the current one.
        with torch.cuda.device_of(x):
            _forward[(programs,)](
                image=x,
                weight=_by_channel(weight),
                bias=None if bias is None else bias.contiguous(),
                out=out,
                CHANNELS=channels,
                **common,
                **_of_mask(mask),
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
    x, grad = _rows(x), _rows(grad)
    common = _common(x, offset, weight, (grad, mask), geometry)
    chunks = triton.cdiv(common['pixels'], CHUNK)
    of_weight = x.new_empty(
        (n, chunks, common['TAPS'], channels),
        dtype=_sum_dtype(grad, x, offset, weight, mask),
    )
    block = power_of_two(channels, channels * 2)
    block = max(block // 4, min(block, 16))
    tile = _tile(min(common['pixels'], CHUNK), channels, block, 'BLOCK_P')
    programs = n * chunks * common['TAPS']
    if programs:
        with torch.cuda.device_of(x):
            _sampling_gradient[(programs,)](
                grad=grad,
                image=x,
                weight=_by_channel(weight),
                of_offset=of_offset,
                of_mask=of_mask,
                of_weight=of_weight,
                CHANNELS=channels,
                CHUNK=CHUNK,
                **common,
                **_of_mask(mask),
                **tile,
            )
    of_weight = of_weight.sum(1) if chunks > 1 else of_weight[:, 0]
    result = weight.new_empty(weight.shape)
    result.flatten(1, 2).flatten(2).copy_(of_weight.transpose(1, 2))
    return of_offset, result, of_mask


def _sort(
    offset: Tensor, common: dict, images: int, samples: int
) -> tuple[Tensor, Tensor]:
    """Samples ordered by :func:`_keys`, and where each key's run starts."""
    keys = images * (common['height'] + 2) * (common['width'] + 2)
    key = offset.new_empty(
        samples, dtype=torch.int32 if keys < 2**31 else torch.int64
    )
    block = power_of_two(samples, TILE)
    _keys[(triton.cdiv(samples, block),)](
        key=key, samples=samples, BLOCK=block, **common
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
    n, channels = x.shape[:2]
    out = empty_rows(x, x.shape[2:])
    grad = _rows(grad)
    common = _common(x, offset, weight, (grad, mask), geometry)
    tile = _tile(TILE_SAMPLES, channels, TILE_CHANNELS, 'BLOCK_S')
    programs = x[:, 0].numel() * triton.cdiv(channels, tile['BLOCK_C'])
    if programs:
        with torch.cuda.device_of(x):
            order, starts = _sort(offset, common, n, offset.numel() // 2)
            _image_gradient[(programs,)](
                grad=grad,
                weight=_by_channel(weight),
                order=order,
                starts=starts,
                out=out,
                CHANNELS=channels,
                **common,
                **_of_mask(mask),
                **tile,
            )
    return out
