"""Reference implementation of a convolution and norm on a shortcut."""

from typing import Optional

import torch.nn as nn
from torch import Tensor


def add_conv_norm_reference(
    x: Tensor,
    branch: Tensor,
    layers: nn.Module,
    scale: Optional[Tensor] = None,
) -> Tensor:
    """As :func:`mmctx.ops.add_conv_norm`, every layer called.

    The sum overwrites the norm's output, as in torchvision's ResNet.
    """
    branch = layers(branch)
    return (branch if scale is None else branch * scale).add_(x)
