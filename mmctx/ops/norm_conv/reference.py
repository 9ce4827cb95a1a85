"""Reference implementation of a norm and the convolution behind it."""

from collections.abc import Sequence
from typing import Optional

import torch.nn as nn
from torch import Tensor


def norm_conv_reference(
    x: Tensor,
    norm: Optional[nn.Module],
    conv: nn.Module,
    sizes: Sequence[int],
) -> tuple[Tensor, ...]:
    """As :func:`mmctx.ops.norm_conv`, both layers called."""
    x = conv(x if norm is None else norm(x))
    return x.split(list(sizes), 1)
