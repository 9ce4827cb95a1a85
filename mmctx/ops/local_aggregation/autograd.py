"""The custom operators of the interface, and their gradients."""

import importlib

import torch
from torch import Tensor

from ..autograd import custom_operator, gradients_of, register_gradients
from .reference import local_aggregation_reference

_INPUTS = (
    'Tensor value, Tensor weight, int kernel_size, int dilation, int heads, '
    'str backend'
)


def _run(function: str, *args):
    """A function of a backend's module; imports Triton at its first use."""
    *inputs, backend = args
    module = importlib.import_module(f'.{backend}', __package__)
    return getattr(module, function)(*inputs)


def _forward(*args):
    return _run('forward', *args)


def _backward(*args):
    return _run('backward', *args)


def _reference(*args):
    return local_aggregation_reference(*args[:-1])


def _empty_like(x: Tensor, backend: str) -> Tensor:
    """An output as the backend lays it out: Triton keeps the format."""
    return torch.empty_like(x) if backend == 'triton' else x.new_empty(x.shape)


def _empty_output(value, *args):
    return _empty_like(value, args[-1])


def _empty_gradients(grad, value, weight, *args):
    return _empty_like(value, args[-1]), _empty_like(weight, args[-1])


#: As the public function, by backend 'cpu' or 'triton'.
aggregate = custom_operator(
    f'local_aggregation({_INPUTS}) -> Tensor',
    _forward, _empty_output, _reference,
)  # fmt: skip
_aggregate_backward = custom_operator(
    f'local_aggregation_backward(Tensor grad, {_INPUTS}) -> (Tensor, Tensor)',
    _backward, _empty_gradients, gradients_of(_reference, 0, 1),
)  # fmt: skip


def _gradients(needed, *inputs):
    return _aggregate_backward(*inputs)


register_gradients(aggregate, _gradients, _reference)
