"""Reference implementation of a convolution and its norm."""

from typing import Optional

import torch.nn as nn
from torch import Tensor


def apply_conv_norm_reference(
    x: Tensor, conv: nn.Module, norm: nn.Module
) -> Tensor:
    """As :func:`mmctx.ops.apply_conv_norm`, both layers called."""
    return norm(conv(x))


def add_conv_norm_reference(
    x: Tensor,
    branch: Tensor,
    layers: nn.Module,
    scale: Optional[Tensor] = None,
) -> Tensor:
    """As :func:`mmctx.ops.add_conv_norm`, the layers called.

    The sum overwrites the norm's output, as in torchvision's ResNet.
    """
    branch = layers(branch)
    return (branch if scale is None else branch * scale).add_(x)
