"""The custom operators of the interface, and their gradients."""

import torch
from torch import Tensor

from ..autograd import gradients_of, register_gradients
from ..triton_support import reference_if_unbuilt
from .reference import normed_aggregation_reference


def kernels():
    """Imports Triton at its first use."""
    from . import triton

    return triton


def _empty_output(value, *args):
    return torch.empty_like(value)


def _empty_gradients(grad, value, weight, bias, gamma, beta, *args):
    params = (x.new_empty(x.shape) for x in (bias, gamma, beta))
    return (torch.empty_like(value), torch.empty_like(weight), *params)


@torch.library.custom_op('mmctx::normed_aggregation', mutates_args=())
@reference_if_unbuilt(normed_aggregation_reference, _empty_output)
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
@reference_if_unbuilt(
    gradients_of(normed_aggregation_reference, *range(5)), _empty_gradients
)
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
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return kernels().backward(
        grad, value, weight, bias, gamma, beta, eps, kernel_size, dilation,
        heads,
    )  # fmt: skip


normed_aggregation.register_fake(_empty_output)
_backward.register_fake(_empty_gradients)


def _gradients(needed, *inputs):
    return _backward(*inputs)


register_gradients(
    normed_aggregation, _gradients, normed_aggregation_reference
)
