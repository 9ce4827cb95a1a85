"""Reference implementation of the residual branch of a norm and an MLP."""

from typing import Optional

import torch.nn as nn
from torch import Tensor


def add_mlp_reference(
    x: Tensor,
    mlp: nn.Module,
    norm: Optional[nn.Module],
    branch: Tensor,
    scale: Optional[Tensor] = None,
) -> Tensor:
    """As :func:`mmctx.ops.add_mlp`, every layer called."""
    branch = mlp(branch if norm is None else norm(branch))
    return x + (branch if scale is None else branch * scale)
