"""Local aggregation without a copy per tap, by operators of PyTorch.

In a flattened feature map, the neighbour at (dy, dx) of every pixel lies
``dy * W + dx`` positions ahead, so that each tap is one multiply-add of two
contiguous slices, accumulated in place. A shift by dx wraps around the ends of
rows; zeroing the dx columns that wrap, once per dx, makes the result exact.
Beside inputs and output that takes K - 1 copies of the feature map, where
``unfold`` takes K * K.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from ..precision import accumulation_dtype


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
    """(N, C, H, W) to (N, C / G, G, H * W): channels that share a weight."""
    return x.flatten(2).unflatten(1, (x.shape[1] // groups, groups))


def _shifted(
    x: Tensor, groups: int, kernel_size: int, side: int
) -> dict[int, Tensor]:
    """Grouped rows to be read at +dx (``side`` 1) or -dx (-1), by dx."""
    radius = kernel_size // 2
    return {
        dx: _group(_clear_columns(x, side * dx), groups)
        for dx in range(-radius, radius + 1)
    }


def _taps(
    kernel_size: int, height: int, width: int
) -> Iterator[tuple[int, int, slice, slice]]:
    """Tap, dx, and the slices of pixels and of their neighbours.

    Pixels whose neighbour lies above or below the feature map are left out,
    and so are taps that reach over all of it.
    """
    radius = kernel_size // 2
    size = height * width
    for tap in range(kernel_size**2):
        dy, dx = (i - radius for i in divmod(tap, kernel_size))
        shift = dy * width + dx
        if abs(shift) < size and abs(dx) < width:
            yield (
                tap,
                dx,
                slice(max(-shift, 0), size - max(shift, 0)),
                slice(max(shift, 0), size - max(-shift, 0)),
            )


def forward(value: Tensor, weight: Tensor, kernel_size: int) -> Tensor:
    """Output of the operator; shapes as in the public function."""
    dtype = accumulation_dtype(value, weight)
    source = value.to(dtype).contiguous()
    rows = _shifted(source, weight.shape[1], kernel_size, 1)
    taps = weight.to(dtype).flatten(3).unsqueeze(1)
    out = torch.zeros_like(rows[0])
    for tap, dx, pixels, neighbours in _taps(kernel_size, *value.shape[2:]):
        out[..., pixels].addcmul_(
            taps[..., tap, pixels], rows[dx][..., neighbours]
        )
    return out.view(value.shape).to(value.dtype)


def backward(
    grad: Tensor, value: Tensor, weight: Tensor, kernel_size: int
) -> tuple[Tensor, Tensor]:
    """Gradients of value and weight, in their dtypes.

    The value's gradient scatters what the forward pass gathered; the
    weight's is the product of output gradient and neighbour, summed over the
    channels that share the weight.
    """
    dtype = accumulation_dtype(value, weight)
    grad, source = (x.to(dtype).contiguous() for x in (grad, value))
    source = _group(source, weight.shape[1])
    taps = weight.to(dtype).flatten(3).unsqueeze(1)
    # Pixels whose neighbour at dx lies outside give nothing: their columns
    # are those that a read at -dx wraps to.
    rows = _shifted(grad, weight.shape[1], kernel_size, -1)
    grad_value = torch.zeros_like(source)
    grad_weight = torch.zeros_like(taps[:, 0])
    for tap, dx, pixels, neighbours in _taps(kernel_size, *value.shape[2:]):
        grad_out = rows[dx][..., pixels]
        grad_value[..., neighbours].addcmul_(taps[..., tap, pixels], grad_out)
        torch.sum(
            grad_out * source[..., neighbours],
            dim=1,
            out=grad_weight[:, :, tap, pixels],
        )
    return (
        grad_value.view(value.shape).to(value.dtype),
        grad_weight.view(weight.shape).to(weight.dtype),
    )
