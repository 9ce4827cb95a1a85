"""Local aggregation without a copy per tap, by operators of PyTorch.

In a flattened feature map, the neighbour at (dy, dx) of every pixel lies
``dy * W + dx`` positions ahead, so that each tap is one multiply-add of two
contiguous slices, accumulated in place. A shift by dx wraps around the ends of
rows; zeroing the dx columns that wrap, once per dx, makes the result exact.
Images and weight channels are taken in slices that stay in cache. Beyond
inputs and output that takes K - 1 copies of a slice, where ``unfold`` takes K
* K of the feature map.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from ..precision import accumulation_dtype

#: Elements per thread in a slice of the value.
SLICE = 1 << 19


def _clear_columns(x: Tensor, dx: int) -> Tensor:
    """(..., H, W) without the columns that a read at +dx wraps to."""
    if dx == 0:
        return x
    x = x.clone()
    if dx > 0:
        x[..., :dx] = 0
    else:
        x[..., dx:] = 0
    return x


def _group(x: Tensor, groups: int) -> Tensor:
    """(N, C, H, W) to (N, C / G, G, H, W): channels that share a weight."""
    return x.unflatten(1, (x.shape[1] // groups, groups))


def _images(x: Tensor, heads: int) -> Tensor:
    """Heads as images: (N, C, ...) to (N * heads, C / heads, ...)."""
    return x.unflatten(1, (heads, -1)).flatten(0, 1)


def _slices(grouped: Tensor) -> Iterator[tuple[slice, slice]]:
    """Images and weight channels that are computed together."""
    images, share, groups = grouped.shape[:3]
    size = SLICE * torch.get_num_threads()
    per_group = max(share * grouped[0, 0, 0].numel(), 1) if images else 1
    step = min(max(size // per_group, 1), groups)
    image_step = max(size // (per_group * groups), 1)
    for image in range(0, images, image_step):
        for group in range(0, groups, step):
            yield slice(image, image + image_step), slice(group, group + step)


def _shifted(
    x: Tensor, kernel_size: int, dilation: int, side: int
) -> dict[int, Tensor]:
    """Rows (..., H * W) to be read at +dx (``side`` 1) or -dx (-1), by dx."""
    reach = kernel_size // 2 * dilation
    return {
        dx: _clear_columns(x, side * dx).flatten(-2)
        for dx in range(-reach, reach + 1, dilation)
    }


def _taps(
    kernel_size: int, dilation: int, height: int, width: int
) -> Iterator[tuple[int, int, slice, slice]]:
    """Tap, dx, and the slices of pixels and of their neighbours.

    Pixels whose neighbour lies above or below the feature map are left out, as
    are taps that reach beyond all of it.
    """
    radius = kernel_size // 2
    size = height * width
    for tap in range(kernel_size**2):
        dy, dx = ((i - radius) * dilation for i in divmod(tap, kernel_size))
        shift = dy * width + dx
        if abs(shift) < size and abs(dx) < width:
            yield (
                tap,
                dx,
                slice(max(-shift, 0), size - max(shift, 0)),
                slice(max(shift, 0), size - max(-shift, 0)),
            )


def forward(value, weight, kernel_size, dilation, heads) -> Tensor:
    """Output of the operator; shapes as in the public function."""
    dtype = accumulation_dtype(value, weight)
    weight = _images(weight.to(dtype), heads).flatten(3)
    source = _images(value.to(dtype).contiguous(), heads)
    source = _group(source, weight.shape[1])
    out = torch.zeros_like(source).flatten(3)
    for images, groups in _slices(source):
        rows = _shifted(source[images, :, groups], kernel_size, dilation, 1)
        taps, part = weight[images, None, groups], out[images, :, groups]
        for tap, dx, pixels, neighbours in _taps(
            kernel_size, dilation, *value.shape[2:]
        ):
            part[..., pixels].addcmul_(
                taps[..., tap, pixels], rows[dx][..., neighbours]
            )
    return out.view(value.shape).to(value.dtype)


def backward(
    grad, value, weight, kernel_size, dilation, heads
) -> tuple[Tensor, Tensor]:
    """Gradients of value and weight, in their dtypes.

    The value's gradient scatters what the forward pass gathered; the
    weight's is the product of output gradient and neighbour, summed over the
    channels that share the weight.
    """
    dtype = accumulation_dtype(value, weight)
    factors = _images(weight.to(dtype), heads).flatten(3)
    grad, source = (
        _group(_images(x.to(dtype).contiguous(), heads), factors.shape[1])
        for x in (grad, value)
    )
    grad_value = torch.zeros_like(source).flatten(3)
    grad_weight = torch.zeros_like(factors)
    for images, groups in _slices(source):
        # Pixels whose neighbour at dx lies outside add nothing: their
        # columns are those that a read at -dx wraps to.
        rows = _shifted(grad[images, :, groups], kernel_size, dilation, -1)
        values = source[images, :, groups].flatten(3)
        taps, part = (
            factors[images, None, groups],
            grad_value[images, :, groups],
        )
        for tap, dx, pixels, neighbours in _taps(
            kernel_size, dilation, *value.shape[2:]
        ):
            grad_out = rows[dx][..., pixels]
            part[..., neighbours].addcmul_(taps[..., tap, pixels], grad_out)
            torch.sum(
                grad_out * values[..., neighbours],
                dim=1,
                out=grad_weight[images, groups, tap, pixels],
            )
    return (
        grad_value.view(value.shape).to(value.dtype),
        grad_weight.view(weight.shape).to(weight.dtype),
    )
