"""Functions of the windows of a feature map."""

from collections.abc import Callable

import torch.nn as nn
from torch import Tensor

from ..dispatch import refuse_cpu_inference, refuse_layers
from . import cpu
from .reference import windowed_reference

__all__ = ['windowed', 'windowed_reference']


def windowed(
    function: Callable[[Tensor], Tensor],
    x: Tensor,
    size: int,
    *layers: nn.Module,
) -> Tensor:
    """Apply a function to every window of a feature map.

    Windows tile the feature map from its upper left corner; its right and its
    bottom border cut them off. Evaluation in float32 on a CPU takes a few
    windows at a time, so that they stay in the cache.

    Args:
        function (Callable): From B windows of N images, (N, B, h, w, C), to
            the same shape, each window on its own. It is called once for
            each size of windows, or for parts of them.
        x (Tensor): (N, H, W, C).
        size (int): Side of a window that is not cut off.
        *layers (nn.Module): All layers that the function calls.

    Returns:
        Tensor: (N, H, W, C).
    """
    if (
        refuse_cpu_inference(x) is None
        and refuse_layers(*layers) is None
        and cpu.refuse(*layers) is None
    ):
        return cpu.windowed(function, x, size)
    return windowed_reference(function, x, size)
