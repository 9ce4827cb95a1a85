"""A convolution and its norm, alone or on a shortcut."""

from typing import Optional

import torch.nn as nn
from torch import Tensor

from ..dispatch import refuse_cpu_inference, refuse_layers
from . import cpu
from .reference import add_conv_norm_reference, apply_conv_norm_reference

__all__ = [
    'add_conv_norm',
    'add_conv_norm_reference',
    'apply_conv_norm',
    'apply_conv_norm_reference',
]


def apply_conv_norm(x: Tensor, conv: nn.Module, norm: nn.Module) -> Tensor:
    r""":math:`\mathrm{Norm}(\mathrm{Conv}(x))`.

    Evaluation in float32 on a CPU takes a batch norm into the weights of a
    1 x 1 convolution, which is one matrix product then.

    Args:
        x (Tensor): (N, C, H, W).
        conv (nn.Module): The convolution.
        norm (nn.Module): The norm behind it.

    Returns:
        Tensor: (N, C_out, H', W').
    """
    if (
        refuse_cpu_inference(x) is None
        and cpu.refuse(x, conv, norm) is None
        and refuse_layers(conv, norm) is None
    ):
        return cpu.conv_norm(x, conv, norm)
    return apply_conv_norm_reference(x, conv, norm)


def add_conv_norm(
    x: Tensor,
    branch: Tensor,
    layers: nn.Module,
    scale: Optional[Tensor] = None,
) -> Tensor:
    r"""Add a convolution and its norm to a shortcut.

    .. math:: x + s \cdot \mathrm{Norm}(\mathrm{Conv}(b))

    Evaluation in float32 on a CPU adds the product of
    :func:`apply_conv_norm` to the shortcut as it is computed.

    Args:
        x (Tensor): Output of the shortcut, (N, C_out, H', W').
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
        and cpu.refuse_sum(x, branch, layers, scale) is None
        and refuse_layers(layers) is None
    ):
        return cpu.conv_norm(branch, *layers, x)
    return add_conv_norm_reference(x, branch, layers, scale)
