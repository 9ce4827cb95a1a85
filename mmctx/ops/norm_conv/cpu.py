"""A batch norm folded into its convolution, for inference on a CPU."""

from typing import Optional

import torch.nn.functional as F
from torch import Tensor

from ..folding import fold_batch_norm, refuse_folding


def refuse(x, norm, conv, sizes) -> Optional[str]:
    """Why these layers are called one by one."""
    if x.dim() != 4:
        return 'the input is not a batch of feature maps'
    if sum(sizes) != getattr(conv, 'out_channels', None):
        return 'the sizes do not sum to the channels of the convolution'
    return refuse_folding(norm, conv)


def norm_conv(x, norm, conv, sizes) -> tuple[Tensor, ...]:
    """As :func:`mmctx.ops.norm_conv`, for layers that :func:`refuse` takes."""
    x, weight, bias = fold_batch_norm(x, norm, conv)
    parts = zip(weight.split(list(sizes)), bias.split(list(sizes)))
    return tuple(F.conv2d(x, *part) for part in parts)
