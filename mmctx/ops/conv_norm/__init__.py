"""A convolution and its norm, alone or on a shortcut."""

from typing import Optional

import torch.nn as nn
from torch import Tensor

from ..dispatch import cpu_variant
from . import cpu

__all__ = ['add_conv_norm', 'apply_conv_norm']


@cpu_variant(cpu.conv_norm, cpu.refuse)
def apply_conv_norm(x: Tensor, conv: nn.Module, norm: nn.Module) -> Tensor:
    r""":math:`\mathrm{Norm}(\mathrm{Conv}(x))`.

    Float32 inference on a CPU folds a batch norm into a 1 x 1 convolution,
    which is then one matrix product.

    Args:
        x (Tensor): (N, C, H, W).
        conv (nn.Module): The convolution.
        norm (nn.Module): The norm that follows it.

    Returns:
        Tensor: (N, C_out, H', W').
    """
    return norm(conv(x))


@cpu_variant(cpu.add_conv_norm, cpu.refuse_sum)
def add_conv_norm(
    x: Tensor,
    branch: Tensor,
    layers: nn.Module,
    scale: Optional[Tensor] = None,
) -> Tensor:
    r"""Add a convolution and its norm to a shortcut.

    .. math:: x + s \cdot \mathrm{Norm}(\mathrm{Conv}(b))

    Float32 inference on a CPU accumulates the product of
    :func:`apply_conv_norm` onto the shortcut.

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
    branch = layers(branch)
    # In-place on the norm's output, as in torchvision's ResNet.
    return (branch if scale is None else branch * scale).add_(x)
