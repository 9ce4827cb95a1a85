"""A product with bias and GELU in one pass, for inference on a CPU."""

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

#: With fewer rows, oneDNN's packing of the weight costs more than
#: the passes that it saves.
MIN_ROWS = 512
#: PyTorch's own product is faster if both sides of a weight are wider.
MAX_WIDTH = 256


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Optional[Tensor] = None,
    gelu: bool = False,
) -> Tensor:
    """``x @ weight.T + bias``, then an exact (erf) GELU if asked for.

    For the CPU variants of operators, after dispatch: float32 without
    gradients. One call of oneDNN where that is faster: PyTorch's operators
    write the output three times, for bias, product and activation.

    Args:
        x (Tensor): (..., C_in).
        weight (Tensor): (C_out, C_in).
        bias (Tensor, optional): (C_out,).
        gelu (bool): Whether a GELU follows. Defaults to False.

    Returns:
        Tensor: (..., C_out).
    """
    if not _is_fused(x, weight):
        x = F.linear(x, weight, bias)
        return torch.ops.aten.gelu_(x) if gelu else x
    activation = 'gelu' if gelu else 'none'
    return torch.ops.mkldnn._linear_pointwise(
        x, weight, bias, activation, [], 'none'
    )


def _is_fused(x: Tensor, weight: Tensor) -> bool:
    return (
        min(weight.shape) <= MAX_WIDTH
        and x.shape[:-1].numel() >= MIN_ROWS
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
    )
