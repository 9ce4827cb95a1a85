"""Batch norm in evaluation, as part of the 1 x 1 convolution behind it."""

from typing import Optional

import torch
import torch.nn as nn
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm
from torch import Tensor


def affine_of(norm: Optional[nn.Module]) -> Optional[tuple[Tensor, Tensor]]:
    """Scale and shift (C,) of a batch norm that uses its running statistics.

    None for any other norm, as what it does depends on its input, and for
    compilers, which fuse a norm with its neighbours by themselves.
    """
    if (
        torch.compiler.is_compiling()
        or not isinstance(norm, _BatchNorm)
        or norm.training
        or norm.running_mean is None
        or norm.weight is None
    ):
        return None
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return scale, norm.bias - norm.running_mean * scale


def fold_norm(
    norm: Optional[nn.Module], x: Tensor, conv: nn.Conv2d
) -> tuple[Tensor, Tensor, Tensor]:
    """Apply a norm, or make it part of the convolution that follows.

    Args:
        norm (nn.Module, optional): A norm of maps.
        x (Tensor): (N, C, H, W).
        conv (nn.Conv2d): 1 x 1 with a bias; its parameters stay as they are.

    Returns:
        tuple: Input, weight and bias of a convolution that computes
        ``conv(norm(x))``.
    """
    affine = affine_of(norm)
    if affine is None:
        x = x if norm is None else norm(x)
        return x, conv.weight, conv.bias
    scale, shift = (t.view(1, -1, 1, 1) for t in affine)
    bias = conv.bias + (conv.weight * shift).sum((1, 2, 3))
    return x, conv.weight * scale, bias
