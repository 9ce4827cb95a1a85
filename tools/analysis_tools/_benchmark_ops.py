"""The operators that benchmark.py times, and how others compute them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mmctx.ops import contextual_deform_conv, local_aggregation

Shape = tuple[int, int, int, int]
COT_SIDE, COT_SHARE = 3, 8
CONTEXTUAL_SIDE = 7


def aggregate(value: Tensor, weight: Tensor) -> Tensor:
    return local_aggregation(value, weight, COT_SIDE)


def unfold(value: Tensor, weight: Tensor) -> Tensor:
    """As ``aggregate``, every neighbourhood copied out by ``unfold``."""
    groups = weight.shape[1]
    taps = F.unfold(value, COT_SIDE, padding=COT_SIDE // 2)
    taps = taps.view(
        len(value), -1, groups, COT_SIDE**2, *value.shape[2:]
    )  # (N, C / G, G, K * K, H, W)
    return (taps * weight[:, None]).sum(3).flatten(1, 2)


def aggregation_inputs(shape: Shape) -> tuple[Tensor, ...]:
    """Value and weight of a CoT layer on a feature map of this shape."""
    n, c, h, w = shape
    return (
        torch.randn(shape),
        torch.randn(n, c // COT_SHARE, COT_SIDE**2, h, w),
    )


def deform(x: Tensor, offset: Tensor, weight: Tensor, mask: Tensor) -> Tensor:
    padding = CONTEXTUAL_SIDE // 2
    return contextual_deform_conv(x, offset, weight, None, mask, 1, padding)


def folded(x: Tensor, offset: Tensor, weight: Tensor, mask: Tensor) -> Tensor:
    """As ``deform``, by torchvision: the batch becomes channels, with an
    offset group for each image. In float32, as under autocast."""
    from torchvision.ops import deform_conv2d

    out = deform_conv2d(
        x.float().flatten(0, 1)[None],
        offset.float().flatten(0, 1)[None],
        weight.float().flatten(0, 1),
        padding=CONTEXTUAL_SIDE // 2,
        mask=mask.float().flatten(0, 1)[None],
    )
    return out.view(x.shape).to(x.dtype)


def contextual_inputs(shape: Shape) -> tuple[Tensor, ...]:
    """Feature map, offsets, depth-wise kernels and mask, as trained:
    positions about a pixel from the grid."""
    n, c, h, w = shape
    taps = CONTEXTUAL_SIDE**2
    return (
        torch.randn(shape),
        torch.randn(n, 2 * taps, h, w),
        torch.randn(n, c, 1, CONTEXTUAL_SIDE, CONTEXTUAL_SIDE),
        torch.rand(n, taps, h, w),
    )


@dataclass(frozen=True)
class Operator:
    """An operator in both forms.

    Attributes:
        ours, peer (Callable): Map the inputs to an output of the first
            input's shape.
        peer_name (str): What the second form is.
        make_inputs (Callable): Shape of a feature map to the inputs, float32.
        channels (tuple[int]): Channels of the feature maps in the four stages
            of its network.
    """

    ours: Callable
    peer: Callable
    peer_name: str
    make_inputs: Callable
    channels: tuple[int, ...]


OPERATORS = {
    # CoTNet-50 and Contextual ConvNeXt-T
    'op:local_aggregation': Operator(
        aggregate, unfold, 'unfold', aggregation_inputs,
        (64, 128, 256, 512),
    ),
    'op:contextual_deform_conv': Operator(
        deform, folded, 'folded torchvision', contextual_inputs,
        (96, 192, 384, 768),
    ),
}  # fmt: skip


def layer_shapes(operator: Operator, images: Shape) -> list[Shape]:
    """Feature maps that an operator sees in its network on these images."""
    n, _, *size = images
    return [
        (n, channels, *(-(-side // 2 ** (i + 2)) for side in size))
        for i, channels in enumerate(operator.channels)
    ]


def traffic(mode: str, inputs: Sequence[Tensor]) -> int:
    """Bytes that any implementation must move.

    Forward reads the inputs and writes the output. Backward reads the inputs
    and the output's gradient and writes a gradient for every input.
    """
    read = sum(x.numel() * x.element_size() for x in inputs)
    written = inputs[0].numel() * inputs[0].element_size()
    return read + written if mode == 'eval' else 3 * read + 2 * written


def make_step(
    function: Callable, mode: str, inputs: Sequence[Tensor]
) -> Callable[[], object]:
    """One forward pass, followed by a backward pass in mode 'train'."""
    if mode == 'eval':
        return torch.inference_mode()(lambda: function(*inputs))
    grad = torch.randn_like(inputs[0])
    inputs = [x.detach().requires_grad_() for x in inputs]
    return lambda: torch.autograd.grad(function(*inputs), inputs, grad)
