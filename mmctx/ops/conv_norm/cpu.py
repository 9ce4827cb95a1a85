"""A 1 x 1 convolution with its norm as a product, for inference on a CPU.

oneDNN's convolution copies feature maps into its own layout and back, so that
with its norm a network's widest feature map exists three times. For BLAS, the
convolution is one product per image, added to what the output holds: the
norm's shift, or a shortcut.
"""

from typing import Optional

import torch
import torch.nn as nn
from torch import Tensor
from torch.nn.utils.fusion import fuse_conv_bn_weights

from ..folding import refuse_norm

#: With fewer pixels in the batch, the norm costs less than folding it.
MIN_PIXELS = 1024


def refuse(x, conv, norm) -> Optional[str]:
    """Why these layers are not computed as a product."""
    if (
        type(conv) is not nn.Conv2d
        or conv.kernel_size != (1, 1)
        or conv.padding != (0, 0)
        or conv.groups != 1
    ):
        return 'the layer is not an ordinary 1 x 1 convolution'
    reason = refuse_norm(norm)
    if reason is not None:
        return reason
    if x.dim() != 4 or not x.is_contiguous():
        return 'the pixels of a channel are not contiguous'
    if x.numel() < x.shape[1] * max(conv.in_channels, MIN_PIXELS):
        return 'folding the weight takes longer than the norm'
    return None


def refuse_sum(x, branch, layers, scale=None) -> Optional[str]:
    """Why these layers are not computed as a product added to ``x``."""
    if scale is not None:
        return 'the branch has a scale'
    if not isinstance(layers, nn.Sequential) or len(layers) != 2:
        return 'the layers are not a convolution and its norm'
    if not x.is_contiguous():
        return 'the pixels of a channel are not contiguous'
    return refuse(branch, *layers)


def conv_norm(
    x: Tensor,
    conv: nn.Conv2d,
    norm: nn.BatchNorm2d,
    shortcut: Optional[Tensor] = None,
) -> Tensor:
    """``norm(conv(x))``, plus a shortcut, for what :func:`refuse` takes."""
    weight, shift = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var,
        norm.eps, norm.weight, norm.bias,
    )  # fmt: skip
    weight, shift = weight.flatten(1).expand(len(x), -1, -1), shift[:, None]
    if conv.stride != (1, 1):
        x = x[..., :: conv.stride[0], :: conv.stride[1]]
    pixels = x.flatten(2)
    if shortcut is None:
        out = torch.baddbmm(shift, weight, pixels)
    else:
        out = (shortcut.flatten(2) + shift).baddbmm_(weight, pixels)
    return out.unflatten(2, x.shape[2:])


def add_conv_norm(x, branch, layers, scale=None) -> Tensor:
    """As :func:`mmctx.ops.add_conv_norm`, for what is not refused."""
    return conv_norm(branch, *layers, x)
