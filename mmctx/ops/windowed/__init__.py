"""Functions of the windows of a feature map."""

from collections.abc import Callable

import torch
import torch.nn as nn
from torch import Tensor

from ..dispatch import cpu_variant
from . import cpu
from .windows import tile

__all__ = ['windowed']


@cpu_variant(cpu.windowed)
def windowed(
    function: Callable[[Tensor], Tensor],
    x: Tensor,
    size: int,
    *layers: nn.Module,
) -> Tensor:
    """Apply a function to every window of a feature map.

    Windows tile the feature map from its upper left corner; its right and its
    bottom border cut them off. Float32 inference on a CPU takes a few windows
    at a time, so that they stay in cache.

    Args:
        function (Callable): Maps B windows of N images, (N, B, h, w, C), to
            the same shape, each window independently. It is called once per
            window size, or for parts of the windows.
        x (Tensor): (N, H, W, C).
        size (int): Side of a window that is not cut off.
        *layers (nn.Module): All layers that the function calls.

    Returns:
        Tensor: (N, H, W, C).
    """
    rows = [
        _concatenated([part.join(function(part.cut(x))) for part in row], 2)
        for row in tile(*x.shape[1:3], size)
    ]
    return _concatenated(rows, 1)


def _concatenated(parts: list[Tensor], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)
