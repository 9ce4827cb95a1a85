"""A 1 x 1 convolution with a bias."""

from typing import Optional

import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .dispatch import refuse_custom_operator, refuse_layers
from .folding import refuse_folding

__all__ = ['pointwise']


def pointwise(x: Tensor, layer: nn.Module) -> Tensor:
    """Call a layer.

    On a GPU, a 1 x 1 convolution of a channels-last feature map is a matrix
    product, which adds the bias on the way: cuDNN's convolution leaves that
    to another pass over the output.

    Args:
        x (Tensor): (N, C, H, W).
        layer (nn.Module): Any layer; all but 1 x 1 convolutions with a bias
            are simply called.

    Returns:
        Tensor: (N, C_out, H, W).
    """
    if _refuse(x, layer) is not None:
        return layer(x)
    rows = x.permute(0, 2, 3, 1)
    out = F.linear(rows, layer.weight.flatten(1), layer.bias)
    return out.permute(0, 3, 1, 2)


def _refuse(x: Tensor, layer: nn.Module) -> Optional[str]:
    """Why a layer is not computed as a matrix product."""
    return (
        _refuse_device(x)
        or _refuse_format(x)
        or refuse_folding(None, layer)
        or refuse_custom_operator()
        or refuse_layers(layer)
    )


def _refuse_device(x: Tensor) -> Optional[str]:
    return None if x.is_cuda else 'other devices add the bias on the way'


def _refuse_format(x: Tensor) -> Optional[str]:
    if x.dim() == 4 and x.permute(0, 2, 3, 1).is_contiguous():
        return None
    return 'the channels of a pixel are not contiguous'
