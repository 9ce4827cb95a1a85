"""A bottleneck's last convolution as one product, for inference on a CPU.

oneDNN's convolution copies feature maps into a layout of its own and back, so
that with norm and sum the widest feature map of the network is there three
times. A 1 x 1 convolution is a matrix product for each image, and BLAS adds
it to what the output holds.
"""

from typing import Optional

import torch.nn as nn
from torch import Tensor
from torch.nn.utils.fusion import fuse_conv_bn_weights


def refuse(
    x: Tensor, branch: Tensor, layers: nn.Module, scale: Optional[Tensor]
) -> Optional[str]:
    """Why these layers are not computed as one product."""
    if scale is not None:
        return 'the branch has a scale'
    if type(layers) is not nn.Sequential or len(layers) != 2:
        return 'the layers are no pair of convolution and norm'
    conv, norm = layers
    if (
        type(conv) is not nn.Conv2d
        or conv.weight.shape[1:] != (branch.shape[1], 1, 1)
        or conv.stride != (1, 1)
        or conv.padding != (0, 0)
    ):
        return 'the layer is no ordinary 1 x 1 convolution'
    if type(norm) not in (nn.BatchNorm2d, nn.SyncBatchNorm):
        return f'the norm is a {type(norm).__name__}'
    if norm.training or norm.running_mean is None:
        return 'the norm uses the statistics of the batch'
    if not (x.is_contiguous() and branch.is_contiguous()):
        return 'pixels of a channel are not side by side'
    return None


def add_conv_norm(
    x: Tensor, branch: Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d
) -> Tensor:
    """As :func:`mmctx.ops.add_conv_norm`, for what :func:`refuse` takes."""
    weight, bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var,
        norm.eps, norm.weight, norm.bias,
    )  # fmt: skip
    out = x + bias[:, None, None]
    weight = weight.flatten(1).expand(len(x), -1, -1)
    out.flatten(2).baddbmm_(weight, branch.flatten(2))
    return out
