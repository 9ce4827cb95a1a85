"""A norm and the 1 x 1 convolution after it."""

from collections.abc import Sequence
from typing import Optional

import torch.nn as nn
from torch import Tensor

from ..dispatch import cpu_variant
from ..pointwise import pointwise
from . import cpu

__all__ = ['norm_conv']


@cpu_variant(cpu.norm_conv, cpu.refuse)
def norm_conv(
    x: Tensor,
    norm: Optional[nn.Module],
    conv: nn.Module,
    sizes: Sequence[int],
) -> tuple[Tensor, ...]:
    """Split the channels of ``conv(norm(x))``.

    Float32 inference on a CPU folds a batch norm into the convolution and
    computes each part as a feature map of its own: a following convolution
    would copy a slice of channels.

    Args:
        x (Tensor): (N, C, H, W).
        norm (nn.Module, optional): A norm of feature maps. None changes
            nothing.
        conv (nn.Module): From C to C_1 + C_2 + ... channels.
        sizes (Sequence[int]): C_1, C_2, ...

    Returns:
        tuple[Tensor]: (N, C_i, H, W) for each of ``sizes``.

    Raises:
        RuntimeError: ``sizes`` do not sum to the convolution's channels.
    """
    x = pointwise(x if norm is None else norm(x), conv)
    return x.split(list(sizes), 1)
