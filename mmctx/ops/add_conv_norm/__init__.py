"""The end of a bottleneck: a 1 x 1 convolution, its norm and the sum."""

from typing import Optional

import torch.nn as nn
from torch import Tensor

from ..dispatch import refuse_cpu_inference, refuse_layers
from . import cpu
from .reference import add_conv_norm_reference

__all__ = ['add_conv_norm', 'add_conv_norm_reference']


def add_conv_norm(
    x: Tensor,
    branch: Tensor,
    layers: nn.Module,
    scale: Optional[Tensor] = None,
) -> Tensor:
    r"""Add a convolution and its norm to a shortcut.

    .. math:: x + s \cdot \mathrm{Norm}(\mathrm{Conv}(b))

    Evaluation in float32 on a CPU takes the norm into the weights and adds
    the product to the shortcut as it is computed: one feature map is stored
    instead of three.

    Args:
        x (Tensor): Output of the shortcut, (N, C_out, H, W).
        branch (Tensor): Input b of the convolution, (N, C, H, W).
        layers (nn.Module): The convolution and its norm, an
            ``nn.Sequential``.
        scale (Tensor, optional): Factor s, broadcast against ``x``: the
            draws of stochastic depth. Defaults to 1.

    Returns:
        Tensor: As ``x``.
    """
    if (
        refuse_cpu_inference(x, branch) is None
        and refuse_layers(layers) is None
        and cpu.refuse(x, branch, layers, scale) is None
    ):
        return cpu.add_conv_norm(x, branch, *layers)
    return add_conv_norm_reference(x, branch, layers, scale)
