"""The custom operators of the interface, and their gradients."""

import importlib

import torch
from torch import Tensor

from ..autograd import register_gradients
from .reference import local_aggregation_reference


def _module(backend: str):
    """The module of a backend; imports Triton at its first use."""
    return importlib.import_module(f'.{backend}', __package__)


@torch.library.custom_op('mmctx::local_aggregation', mutates_args=())
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


def _empty_like(x: Tensor, backend: str) -> Tensor:
    """An output as the backend lays it out: Triton keeps the format."""
    return torch.empty_like(x) if backend == 'triton' else x.new_empty(x.shape)


@aggregate.register_fake
def _(value, weight, kernel_size, dilation, heads, backend):
    return _empty_like(value, backend)


@_aggregate_backward.register_fake
def _(grad, value, weight, kernel_size, dilation, heads, backend):
    return _empty_like(value, backend), _empty_like(weight, backend)


def _gradients(needed, *inputs):
    return _aggregate_backward(*inputs)


def _reference(value, weight, kernel_size, dilation, heads, backend):
    return local_aggregation_reference(
        value, weight, kernel_size, dilation, heads
    )


register_gradients(aggregate, _gradients, _reference)
