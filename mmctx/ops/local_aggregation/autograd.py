"""The custom operators of the interface, and their gradients."""

import importlib

import torch
from torch import Tensor

from ..autograd import gradients_of, register_gradients
from ..triton_support import reference_if_unbuilt
from .reference import local_aggregation_reference


def _module(backend: str):
    """The module of a backend; imports Triton at its first use."""
    return importlib.import_module(f'.{backend}', __package__)


def _reference(value, weight, kernel_size, dilation, heads, backend):
    return local_aggregation_reference(
        value, weight, kernel_size, dilation, heads
    )


def _empty_like(x: Tensor, backend: str) -> Tensor:
    """An output as the backend lays it out: Triton keeps the format."""
    return torch.empty_like(x) if backend == 'triton' else x.new_empty(x.shape)


def _empty_output(value, weight, kernel_size, dilation, heads, backend):
    return _empty_like(value, backend)


def _empty_gradients(grad, value, weight, *args):
    return _empty_like(value, args[-1]), _empty_like(weight, args[-1])


@torch.library.custom_op('mmctx::local_aggregation', mutates_args=())
@reference_if_unbuilt(_reference, _empty_output)
def aggregate(
    value: Tensor,
    weight: Tensor,
    kernel_size: int,
    dilation: int,
    heads: int,
    backend: str,
) -> Tensor:
    """As the public function, by backend 'cpu' or 'triton'."""
    return _module(backend).forward(
        value, weight, kernel_size, dilation, heads
    )


@torch.library.custom_op('mmctx::local_aggregation_backward', mutates_args=())
@reference_if_unbuilt(gradients_of(_reference, 0, 1), _empty_gradients)
def _aggregate_backward(
    grad: Tensor,
    value: Tensor,
    weight: Tensor,
    kernel_size: int,
    dilation: int,
    heads: int,
    backend: str,
) -> tuple[Tensor, Tensor]:
    return _module(backend).backward(
        grad, value, weight, kernel_size, dilation, heads
    )


aggregate.register_fake(_empty_output)
_aggregate_backward.register_fake(_empty_gradients)


def _gradients(needed, *inputs):
    return _aggregate_backward(*inputs)


register_gradients(aggregate, _gradients, _reference)
