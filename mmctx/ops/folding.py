"""Batch norm in evaluation as part of the convolution behind it."""

from typing import Optional

import torch.nn as nn
from torch import Tensor


def fold_batch_norm(
    norm: Optional[nn.BatchNorm2d], conv: nn.Conv2d
) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution that computes ``conv(norm(x))``.

    Args:
        norm (nn.BatchNorm2d, optional): In evaluation mode. None changes
            nothing.
        conv (nn.Conv2d): 1 x 1, with a bias.

    Returns:
        tuple[Tensor, Tensor]: Shaped as the convolution's own.
    """
    if norm is None:
        return conv.weight, conv.bias
    scale = (norm.running_var + norm.eps).rsqrt()
    shift = -norm.running_mean * scale
    if norm.weight is not None:
        scale, shift = scale * norm.weight, shift * norm.weight + norm.bias
    bias = conv.bias + conv.weight.flatten(1) @ shift
    return conv.weight * scale.view(1, -1, 1, 1), bias
