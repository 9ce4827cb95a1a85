"""Scaled dot-product attention with derivatives of any order."""

from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from ..dispatch import is_exporting, refuse_custom_operator
from .reference import attention_reference

__all__ = ['attention', 'attention_reference']


class _GradientOfReference(torch.autograd.Function):
    """Pass on the fused output; differentiate the reference if asked twice.

    PyTorch's fused kernels have first derivatives only.
    """

    @staticmethod
    def forward(ctx: Any, fused: Tensor, *inputs: Optional[Tensor]) -> Tensor:
        ctx.save_for_backward(*inputs)
        return fused.view_as(fused)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Optional[Tensor], ...]:
        inputs = ctx.saved_tensors
        if not torch.is_grad_enabled():
            return (grad, *(None for _ in inputs))
        out, pull_back = torch.func.vjp(attention_reference, *inputs)
        return (None, *pull_back(grad.to(out.dtype)))


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Optional[Tensor] = None,
    drop_rate: float = 0.0,
) -> Tensor:
    r"""Weigh values by the similarity of queries and keys.

    .. math:: \mathrm{softmax}(Q K^T / \sqrt{D} + B) V

    PyTorch's fused operator computes it without the matrix of weights, but has
    neither forward-mode nor second derivatives: those are the reference's.

    Source: `Attention Is All You Need <https://arxiv.org/abs/1706.03762>`_,
    Eq. 1.

    Args:
        query (Tensor): Q, (..., L, D).
        key (Tensor): K, (..., S, D).
        value (Tensor): V, (..., S, D_v).
        bias (Tensor, optional): B, broadcast to (..., L, S). Defaults to
            none.
        drop_rate (float): Dropout of the weights, with the derivatives that
            PyTorch's operator has. Defaults to 0.

    Returns:
        Tensor: (..., L, D_v).
    """
    fused = F.scaled_dot_product_attention
    if is_exporting():
        # ONNX's attention lays out its result unlike the operator that was
        # recorded.
        out = fused(query, key, value, bias, drop_rate)
        return out.clone(memory_format=torch.contiguous_format)
    if drop_rate or torch.compiler.is_compiling():
        return fused(query, key, value, bias, drop_rate)
    if refuse_custom_operator() is not None:
        return attention_reference(query, key, value, bias)
    out = fused(query, key, value, bias)
    if not out.requires_grad:
        return out
    inputs = (query, key, value) if bias is None else (query, key, value, bias)
    return _GradientOfReference.apply(out, *inputs)
