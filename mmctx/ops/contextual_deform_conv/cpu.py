"""The inner sum of the contextual convolution as embedding bags, for CPUs.

A sample is a weighted sum of four rows of C channels: an embedding bag, which
PyTorch reads, weights and sums in one pass. The gradient of the feature map is
the same with the roles of pixels and samples exchanged: sorting the rows that
are read gives, for every pixel, the bag of samples that read it.

A depth-wise kernel multiplies whole rows, tap by tap, and can do so after the
sum, since a bag belongs to one tap. Other kernels are one matrix product with
the samples of all taps. Both run over slices of the output that stay in cache,
so that beside inputs and outputs only one slice's samples are stored.

A compiler sees it all as one operator: nothing is left to fuse, and 49
unrolled taps take long to compile.
"""

from collections.abc import Iterator
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from .reference import corner_steps

#: Elements in the samples of a slice.
SLICE = 1 << 20
CORNERS = 4


def refuse(x: Tensor) -> Optional[str]:
    """Why embedding bags do not stand in for the reference."""
    return None if x.device.type == 'cpu' else 'the tensors are not on a CPU'


def _slices(size: int, length: int) -> Iterator[slice]:
    length = max(length, 1)
    for start in range(0, size, length):
        yield slice(start, min(start + length, size))


def _image_slices(n: int, elements_per_image: int) -> Iterator[slice]:
    return _slices(n, SLICE // max(elements_per_image, 1))


def _sum_bags(
    rows: Tensor,
    index: Tensor,
    weight: Tensor,
    offsets: Optional[Tensor] = None,
) -> Tensor:
    """(B, C): for each bag, the weighted sum of the rows that it names."""
    return F.embedding_bag(
        index, rows, offsets, mode='sum', per_sample_weights=weight
    )


def _dot_bags(rows: Tensor, index: Tensor, other: Tensor) -> Tensor:
    """(B, 4): products of a bag's rows with its row of ``other`` (B, C).

    This is PyTorch's gradient of an embedding bag by its weights.
    """
    bag = torch.arange(len(index), dtype=index.dtype, device=index.device)
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(
        other,
        rows,
        index.flatten(),
        bag * CORNERS,
        bag.repeat_interleave(CORNERS),
        0,
    ).view(index.shape)


def _transpose(
    index: Tensor, weight: Tensor, bags: int
) -> tuple[Tensor, Tensor, Tensor]:
    """For each row that ``index`` (B, 4) may name, the bags that name it:
    their numbers in order, their weights, and where each row's list starts."""
    names, order = index.flatten().sort(stable=True)
    ends = torch.bincount(names, minlength=bags).cumsum(0)
    return (
        order // CORNERS,
        weight.flatten()[order],
        F.pad(ends[:-1], (1, 0)),
    )


class _Sampling:
    """Rows of a few images and where some of their pixels read them.

    Args:
        rows, index, corner (Tensor): For all images, as in
            ``contract_reference``.
        images, pixels (slice): Those to work on.
        taps_first (bool): Whether bags are ordered (T, N, P) or (N, P, T).
    """

    def __init__(self, rows, index, corner, images, pixels, taps_first):
        axes = (1, 0, 2) if taps_first else (0, 2, 1)
        steps = corner_steps(rows.shape[2] - 3)
        first = images.start * rows[0, ..., 0].numel()
        index = index[images, :, pixels].permute(axes) - first
        self.rows = rows[images].flatten(0, 2)
        self.index = index.reshape(-1, 1) + index.new_tensor(steps)
        self.corner = corner[images, :, pixels].permute(*axes, 3)
        self.corner = self.corner.reshape(-1, CORNERS)

    def tap(self, tap, taps):
        """Index and weights of one tap; only with the taps first."""
        length = len(self.index) // taps
        part = slice(tap * length, (tap + 1) * length)
        return self.index[part], self.corner[part]


class _Depthwise:
    """Products of C channels with (N, T, C) weights."""

    def __init__(self, rows, index, corner, weight):
        self.inputs = rows, index, corner
        self.weight = weight.flatten(1, 3).transpose(1, 2).contiguous()
        self.taps = index.shape[1]

    def _all_slices(self, out):
        n, pixels, channels = out.shape
        for images in _image_slices(n, pixels * channels):
            for part in _slices(pixels, SLICE // channels):
                sampling = _Sampling(*self.inputs, images, part, True)
                yield images, part, sampling

    def forward(self, out):
        for images, pixels, sampling in self._all_slices(out):
            part = out[images, pixels].zero_()
            for tap in range(self.taps):
                sample = _sum_bags(
                    sampling.rows, *sampling.tap(tap, self.taps)
                )
                part.addcmul_(
                    sample.view(part.shape), self.weight[images, tap, None]
                )

    def backward(self, grad, grad_rows, grad_corner, grad_weight):
        by_tap = grad_weight.flatten(1, 3).transpose(1, 2).zero_()
        for images, pixels, sampling in self._all_slices(grad):
            part = grad[images, pixels].contiguous()
            ones = part.new_ones(1, 1, part.shape[1]).expand(len(part), -1, -1)
            for tap in range(self.taps):
                index, corner = sampling.tap(tap, self.taps)
                sample = _sum_bags(sampling.rows, index, corner)
                sample = sample.view(part.shape).mul_(part)
                by_tap[images, tap] += (ones @ sample)[:, 0]
                torch.mul(part, self.weight[images, tap, None], out=sample)
                grad_corner[images, tap, pixels] = _dot_bags(
                    sampling.rows, index, sample.flatten(0, 1)
                ).view(*part.shape[:2], CORNERS)
        self._backward_of_rows(grad, grad_rows)

    def _backward_of_rows(self, grad, grad_rows):
        n, pixels, channels = grad.shape
        for images in _image_slices(n, pixels * channels):
            sampling = _Sampling(*self.inputs, images, slice(pixels), True)
            grads = grad[images].flatten(0, 1)
            part = grad_rows[images].flatten(1, 2).zero_()
            for tap in range(self.taps):
                bags = _transpose(
                    *sampling.tap(tap, self.taps), len(sampling.rows)
                )
                part.addcmul_(
                    _sum_bags(grads, *bags).view(part.shape),
                    self.weight[images, tap, None],
                )


class _Grouped:
    """Matrix products of (T, C / G) samples, G of them side by side."""

    def __init__(self, rows, index, corner, weight):
        self.inputs = rows, index, corner
        self.weight = weight
        self.groups = weight.shape[1]

    def _columns(self, x):
        """(N, P, T, C) to (N, G, P, T * C / G)."""
        x = x.unflatten(-1, (self.groups, -1)).permute(0, 3, 1, 2, 4)
        return x.flatten(3)

    def _image_slices(self):
        """Images, and their weights as (N, G, C_out / G, T * C / G)."""
        rows, index, _ = self.inputs
        n, taps, pixels = index.shape
        for images in _image_slices(n, pixels * taps * rows.shape[-1]):
            yield images, self.weight[images].transpose(-1, -2).flatten(3)

    def _samples(self, images):
        """Pixels, how they sample, and (N, G, P, T * C / G) samples."""
        rows, index, _ = self.inputs
        _, taps, pixels = index.shape
        channels = rows.shape[-1]
        for part in _slices(pixels, SLICE // (taps * channels)):
            sampling = _Sampling(*self.inputs, images, part, False)
            sample = _sum_bags(
                sampling.rows, sampling.index, sampling.corner
            ).view(-1, part.stop - part.start, taps, channels)
            yield part, sampling, self._columns(sample)

    def forward(self, out):
        for images, weight in self._image_slices():
            for pixels, _, columns in self._samples(images):
                product = columns @ weight.transpose(-1, -2)
                out[images, pixels] = product.transpose(1, 2).flatten(2)

    def backward(self, grad, grad_rows, grad_corner, grad_weight):
        taps = grad_corner.shape[1]
        grad_rows.zero_()
        grad_weight.zero_()
        for images, weight in self._image_slices():
            of_weight = grad_weight[images].transpose(-1, -2)
            of_rows = grad_rows[images].flatten(0, 2)
            for pixels, sampling, columns in self._samples(images):
                part = grad[images, pixels].unflatten(-1, (self.groups, -1))
                part = part.transpose(1, 2)
                of_weight += (part.transpose(-1, -2) @ columns).view(
                    of_weight.shape
                )
                samples = (part @ weight).unflatten(-1, (taps, -1))
                samples = samples.permute(0, 2, 3, 1, 4)
                samples = samples.reshape(len(sampling.index), -1)
                of_corner = _dot_bags(sampling.rows, sampling.index, samples)
                grad_corner[images, :, pixels] = of_corner.view(
                    -1, pixels.stop - pixels.start, taps, CORNERS
                ).transpose(1, 2)
                bags = _transpose(
                    sampling.index, sampling.corner, len(sampling.rows)
                )
                of_rows += _sum_bags(samples, *bags)


def _choose(rows, index, corner, weight):
    rows, corner = rows.contiguous(), corner.contiguous()
    depthwise = weight.shape[2] == weight.shape[3] == 1
    return (_Depthwise if depthwise else _Grouped)(rows, index, corner, weight)


def forward(
    rows: Tensor, index: Tensor, corner: Tensor, weight: Tensor
) -> Tensor:
    """Output of the inner sum; shapes as in ``contract_reference``."""
    n, groups, channels = weight.shape[:3]
    out = rows.new_empty(n, index.shape[2], groups * channels)
    _choose(rows, index, corner, weight).forward(out)
    return out


def backward(
    grad: Tensor, rows: Tensor, index: Tensor, corner: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of rows, corner weights and kernel."""
    grads = tuple(
        torch.empty(x.shape, dtype=x.dtype, device=x.device)
        for x in (rows, corner, weight)
    )
    _choose(rows, index, corner, weight).backward(grad, *grads)
    return grads
