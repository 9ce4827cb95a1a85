"""Pooling that exporters record for images of any size."""

from collections.abc import Callable
from typing import Any, Optional, Union

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

IntOrPair = Union[int, tuple[int, int]]


def length(x: Tensor, dim: int) -> Tensor:
    """Size of a dimension as a tensor of the graph, in float32."""
    index = [0] * x.dim()
    index[dim] = slice(None)
    return torch.ones_like(x[tuple(index)], dtype=torch.float32).sum()


def _pair(value: Any) -> tuple:
    return tuple(value) if isinstance(value, (tuple, list)) else (value,) * 2


def _fill(
    x: Tensor,
    kernel: IntOrPair,
    stride: IntOrPair,
    padding: IntOrPair,
    ceil_mode: bool,
    value: float,
) -> Tensor:
    """Pad such that whole windows fill the feature map.

    The size of what remains would decide something in PyTorch.
    """
    amounts: list = []
    for side, k, s, p in zip(
        x.shape[2:], *map(_pair, (kernel, stride, padding))
    ):
        rest = side + 2 * p - k
        count = (rest + s - 1 if ceil_mode else rest) // s
        amounts = [p, count * s + k - p - side, *amounts]
    return F.pad(x, amounts, value=value)


def max_pool2d(
    x: Tensor,
    kernel_size: IntOrPair,
    stride: Optional[IntOrPair] = None,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor:
    """As PyTorch's, without its branches on the size."""
    stride = stride or kernel_size
    x = _fill(x, kernel_size, stride, padding, ceil_mode, -torch.inf)
    return torch.max_pool2d(x, kernel_size, stride, 0, dilation)


def avg_pool2d(
    x: Tensor,
    kernel_size: IntOrPair,
    stride: Optional[IntOrPair] = None,
    padding: IntOrPair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: Optional[int] = None,
) -> Tensor:
    """As PyTorch's, without its branches on the size."""
    stride = stride or kernel_size

    def mean(x: Tensor) -> Tensor:
        x = _fill(x, kernel_size, stride, padding, ceil_mode, 0.0)
        return torch._C._nn.avg_pool2d(x, kernel_size, stride)

    if count_include_pad and not ceil_mode:
        return mean(x)
    return mean(x) / mean(torch.ones_like(x[:1, :1]))


def adaptive_avg_pool2d(x: Tensor, output_size: IntOrPair) -> Tensor:
    """As PyTorch's, by a matrix for the rows and one for the columns.

    Bin i of n covers pixels floor(i L / n) to ceil((i + 1) L / n) of L.
    """
    matrices = []
    for dim, count in zip((2, 3), _pair(output_size)):
        side = length(x, dim).to(torch.int64)
        bins = torch.arange(count, device=x.device).unsqueeze(1)
        pixels = torch.arange(x.shape[dim], device=x.device)
        start = bins * side // count
        end = ((bins + 1) * side + count - 1) // count
        inside = ((pixels >= start) & (pixels < end)).to(x.dtype)
        matrices.append(inside / inside.sum(1, keepdim=True))
    rows, columns = matrices
    return rows @ (x @ columns.T)


STAND_INS: dict[Callable, Callable] = {
    torch.max_pool2d: max_pool2d,
    F.max_pool2d: max_pool2d,
    torch._C._nn.avg_pool2d: avg_pool2d,
    F.adaptive_avg_pool2d: adaptive_avg_pool2d,
    torch._C._nn.adaptive_avg_pool2d: adaptive_avg_pool2d,
}


class SizeFreePooling(TorchFunctionMode):
    """Let stand-ins pool, which exporters can record for any size."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        function = STAND_INS.get(func, func)
        if function is max_pool2d and (
            _pair((args[4:] or (1,))[0]) != (1, 1)
            or (kwargs or {}).get('return_indices')
        ):
            function = func
        return function(*args, **(kwargs or {}))
