"""A 1 x 1 convolution of a feature map and a vector per image."""

from typing import Optional

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .dispatch import refuse_layers

__all__ = ['context_projection', 'context_projection_reference']


def context_projection_reference(
    x: Tensor, context: Tensor, conv: nn.Module
) -> Tensor:
    """As :func:`context_projection`, as the paper draws it."""
    spread = context[..., None, None].expand(-1, -1, *x.shape[2:])
    return conv(torch.cat((spread, x), dim=1))


def context_projection(
    x: Tensor, context: Optional[Tensor], conv: nn.Module
) -> Tensor:
    """Convolve ``[context, x]``, the context broadcast over the feature map.

    Where the convolution is plain, the context's part of it is computed once
    per image and added: no broadcast or concatenated feature map is formed.

    Args:
        x (Tensor): (N, C, H, W).
        context (Tensor, optional): (N, C_ctx). None stands for none.
        conv (nn.Module): 1 x 1, from C_ctx + C channels.

    Returns:
        Tensor: (N, C_out, H, W).
    """
    if context is None:
        return conv(x)
    if _refuse_split(conv) is not None:
        return context_projection_reference(x, context, conv)
    of_context, of_x = conv.weight.split((context.shape[1], x.shape[1]), dim=1)
    shift = F.linear(context, of_context.flatten(1), conv.bias)
    return F.conv2d(x, of_x) + shift[..., None, None]


def _refuse_split(conv: nn.Module) -> Optional[str]:
    if (
        type(conv) is not nn.Conv2d
        or conv.kernel_size != (1, 1)
        or conv.stride != (1, 1)
        or conv.padding != (0, 0)
        or conv.groups != 1
    ):
        return 'the layer is not an ordinary 1 x 1 convolution'
    return refuse_layers(conv)
