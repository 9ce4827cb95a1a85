"""Folding of batch norms, in evaluation, into the convolution after them."""

from typing import Optional

import torch.nn as nn
from torch import Tensor


def refuse_folding(
    norm: Optional[nn.Module], conv: nn.Module
) -> Optional[str]:
    """Why a norm cannot be folded into the convolution after it."""
    if type(conv) is not nn.Conv2d or conv.bias is None:
        return f'the {type(conv).__name__} is not a convolution with a bias'
    form = conv.kernel_size, conv.stride, conv.padding, conv.groups
    if form != ((1, 1), (1, 1), (0, 0), 1):
        return 'the convolution is not 1 x 1'
    return None if norm is None else refuse_norm(norm)


def refuse_norm(norm: nn.Module) -> Optional[str]:
    """Why a norm is not the same scale and shift for every input."""
    if not isinstance(norm, nn.modules.batchnorm._BatchNorm):
        return f'the norm is a {type(norm).__name__}'
    if norm.running_mean is None:
        return 'the norm has no running statistics'
    return None


def fold_batch_norm(
    x: Tensor, norm: Optional[nn.BatchNorm2d], conv: nn.Conv2d
) -> tuple[Tensor, Tensor, Tensor]:
    """Fold a norm into the convolution after it, where that is faster.

    Args:
        x (Tensor): (N, C, H, W).
        norm (nn.BatchNorm2d, optional): In evaluation mode. None changes
            nothing.
        conv (nn.Conv2d): 1 x 1, with a bias.

    Returns:
        tuple[Tensor, Tensor, Tensor]: Input, weight and bias of a
        convolution that computes ``conv(norm(x))``.
    """
    if norm is None:
        return x, conv.weight, conv.bias
    if x.numel() < conv.weight.numel():
        return norm(x), conv.weight, conv.bias
    scale = (norm.running_var + norm.eps).rsqrt()
    shift = -norm.running_mean * scale
    if norm.weight is not None:
        scale, shift = scale * norm.weight, shift * norm.weight + norm.bias
    bias = conv.bias + conv.weight.flatten(1) @ shift
    return x, conv.weight * scale.view(1, -1, 1, 1), bias
