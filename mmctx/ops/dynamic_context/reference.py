"""Reference implementation of local aggregation with normed weights."""

import torch.nn.functional as F
from torch import Tensor

from ..local_aggregation import local_aggregation_reference
from ..precision import accumulation_dtype


def normed_aggregation_reference(
    value: Tensor,
    weight: Tensor,
    bias: Tensor,
    gamma: Tensor,
    beta: Tensor,
    eps: float,
    kernel_size: int,
    dilation: int = 1,
    heads: int = 1,
) -> Tensor:
    """Local aggregation with the group norm of ``weight + bias``.

    Args:
        value (Tensor): (N, C, H, W).
        weight (Tensor): (N, G, K*K, H, W), normalised in G groups.
        bias (Tensor): (G, K*K).
        gamma (Tensor): Scale of the norm, (G, K*K).
        beta (Tensor): Shift of the norm, (G, K*K).
        eps (float): Added to the variance.
        kernel_size (int): Odd side K of the neighbourhood.
        dilation (int): Distance of neighbouring taps. Defaults to 1.
        heads (int): Slices of the channels. Defaults to 1.

    Returns:
        Tensor: (N, C, H, W) in the dtype of ``value``.
    """
    dtype = accumulation_dtype(value, weight)
    bias, gamma, beta = (x.to(dtype) for x in (bias, gamma, beta))
    weight = weight.to(dtype) + bias[..., None, None]
    normed = F.group_norm(
        weight.flatten(1, 2), len(bias), gamma.flatten(), beta.flatten(), eps
    ).view(weight.shape)
    return local_aggregation_reference(
        value, normed, kernel_size, dilation, heads
    )
