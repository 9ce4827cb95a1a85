"""The custom operators of the interface, and their gradients."""

import torch
from torch import Tensor

from ..autograd import register_gradients
from .reference import normed_aggregation_reference


def kernels():
    """Imports Triton at its first use."""
    from . import triton

    return triton


@torch.library.custom_op('mmctx::normed_aggregation', mutates_args=())
def normed_aggregation(
    value: Tensor,
    weight: Tensor,
    bias: Tensor,
    gamma: Tensor,
    beta: Tensor,
    eps: float,
    kernel_size: int,
    dilation: int,
    heads: int,
) -> Tensor:
    """As :func:`.reference.normed_aggregation_reference`, by kernels."""
    return kernels().forward(
        value, weight, bias, gamma, beta, eps, kernel_size, dilation, heads
    )


@torch.library.custom_op('mmctx::normed_aggregation_backward', mutates_args=())
def _backward(
    grad: Tensor,
    value: Tensor,
    weight: Tensor,
    bias: Tensor,
    gamma: Tensor,
    beta: Tensor,
    eps: float,
    kernel_size: int,
    dilation: int,
    heads: int,
) -> list[Tensor]:
    grads = kernels().backward(
        grad, value, weight, bias, gamma, beta, eps, kernel_size, dilation,
        heads,
    )  # fmt: skip
    return list(grads)


@normed_aggregation.register_fake
def _(value, *args):
    return torch.empty_like(value)


@_backward.register_fake
def _(grad, value, weight, bias, gamma, beta, *args):
    params = (x.new_empty(x.shape) for x in (bias, gamma, beta))
    return [torch.empty_like(value), torch.empty_like(weight), *params]


def _gradients(needed, *inputs):
    return tuple(_backward(*inputs))


register_gradients(
    normed_aggregation, _gradients, normed_aggregation_reference
)
