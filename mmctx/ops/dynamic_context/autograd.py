"""The custom operators of the interface, and their gradients."""

import torch

from ..autograd import custom_operator, gradients_of, register_gradients
from ..triton_support import at_first_use
from .reference import normed_aggregation_reference

_INPUTS = (
    'Tensor value, Tensor weight, Tensor bias, Tensor gamma, Tensor beta, '
    'float eps, int kernel_size, int dilation, int heads'
)


forward, _backward = at_first_use(__package__, 'forward', 'backward')


def _empty_output(value, *args):
    return torch.empty_like(value)


def _empty_gradients(grad, value, weight, bias, gamma, beta, *args):
    params = (x.new_empty(x.shape) for x in (bias, gamma, beta))
    return (torch.empty_like(value), torch.empty_like(weight), *params)


#: As :func:`.reference.normed_aggregation_reference`, by kernels.
normed_aggregation = custom_operator(
    f'normed_aggregation({_INPUTS}) -> Tensor',
    forward, _empty_output, normed_aggregation_reference,
)  # fmt: skip
_normed_backward = custom_operator(
    f'normed_aggregation_backward(Tensor grad, {_INPUTS})'
    ' -> (Tensor, Tensor, Tensor, Tensor, Tensor)',
    _backward, _empty_gradients,
    gradients_of(normed_aggregation_reference, *range(5)),
)  # fmt: skip


def _gradients(needed, *inputs):
    return _normed_backward(*inputs)


register_gradients(
    normed_aggregation, _gradients, normed_aggregation_reference
)
