"""A linear layer that takes its bias and a GELU along in one pass."""

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from .cpu_evaluation import is_cpu_evaluation

__all__ = ['linear', 'linear_reference']

#: Fewer rows than this and oneDNN's packing of the weight costs more than
#: the passes that it saves.
MIN_ROWS = 512
#: PyTorch's own product is the faster one if both sides of a weight are wider.
MAX_WIDTH = 256


def linear_reference(
    x: Tensor,
    weight: Tensor,
    bias: Optional[Tensor] = None,
    gelu: bool = False,
) -> Tensor:
    """As :func:`linear`, one operator after the other."""
    x = F.linear(x, weight, bias)
    if not gelu:
        return x
    return torch.ops.aten.gelu_(x) if is_cpu_evaluation(x) else F.gelu(x)


def linear(
    x: Tensor,
    weight: Tensor,
    bias: Optional[Tensor] = None,
    gelu: bool = False,
) -> Tensor:
    """``x @ weight.T + bias``, then an exact (erf) GELU if wanted.

    Evaluation of ``MIN_ROWS`` rows or more in float32 on a CPU is one call of
    oneDNN, unless both sides of the weight exceed ``MAX_WIDTH``: PyTorch's own
    operators write the output three times, the bias, the product and its
    activation.

    Args:
        x (Tensor): (..., C_in).
        weight (Tensor): (C_out, C_in).
        bias (Tensor, optional): (C_out,).
        gelu (bool): Whether a GELU follows. Defaults to False.

    Returns:
        Tensor: (..., C_out).
    """
    if not _is_fused(x, weight):
        return linear_reference(x, weight, bias, gelu)
    activation = 'gelu' if gelu else 'none'
    return torch.ops.mkldnn._linear_pointwise(
        x, weight, bias, activation, [], 'none'
    )


def _is_fused(x: Tensor, weight: Tensor) -> bool:
    return (
        x.dtype == weight.dtype == torch.float32
        # Before the size, which compilers would otherwise guard.
        and is_cpu_evaluation(x)
        and min(weight.shape) <= MAX_WIDTH
        and x.shape[:-1].numel() >= MIN_ROWS
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
    )
