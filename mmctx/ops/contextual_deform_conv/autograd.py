"""The custom operators of the interface, and their gradients."""

import importlib

# Of sequences of int, torch.library knows only typing's before torch 2.6.
from typing import Optional, Sequence  # noqa: UP035

import torch
from torch import Tensor

from ..autograd import gradients_of, register_gradients
from ..precision import accumulation_dtype
from ..triton_support import empty_rows, reference_if_unbuilt
from . import cpu
from .reference import contextual_deform_conv_reference, contract_reference


@torch.library.custom_op('mmctx::contextual_contract', mutates_args=())
def contract(
    rows: Tensor, index: Tensor, corner: Tensor, weight: Tensor
) -> Tensor:
    """As ``contract_reference``, on a CPU."""
    return cpu.forward(rows, index, corner, weight)


@torch.library.custom_op(
    'mmctx::contextual_contract_backward', mutates_args=()
)
def _contract_backward(
    grad: Tensor, rows: Tensor, index: Tensor, corner: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return cpu.backward(grad, rows, index, corner, weight)


@contract.register_fake
def _(rows, index, corner, weight):
    n, groups, channels = weight.shape[:3]
    return rows.new_empty(n, index.shape[2], groups * channels)


@_contract_backward.register_fake
def _(grad, rows, index, corner, weight):
    return tuple(x.new_empty(x.shape) for x in (rows, corner, weight))


def _gradients_of_contract(needed, grad, *inputs):
    of_rows, of_corner, of_weight = _contract_backward(grad, *inputs)
    return of_rows, None, of_corner, of_weight


register_gradients(contract, _gradients_of_contract, contract_reference)


def _kernels():
    """Import Triton at its first use."""
    return importlib.import_module('.triton', __package__)


def _depthwise_reference(x, offset, weight, bias, mask, geometry):
    pairs = geometry[:2], geometry[2:4], geometry[4:]
    return contextual_deform_conv_reference(
        x, offset, weight, bias, mask, *pairs
    )


def _without_bias(x, offset, weight, mask, geometry):
    return _depthwise_reference(x, offset, weight, None, mask, geometry)


def _empty_output(x, offset, weight, bias, mask, geometry):
    return empty_rows(x, offset.shape[2:])


def _empty_gradient_of_map(grad, x, offset, weight, mask, geometry):
    return empty_rows(x, x.shape[2:])


def _empty_gradients_of_sampling(grad, x, offset, weight, mask, geometry):
    of_mask = offset.new_empty(0) if mask is None else mask
    return tuple(v.new_empty(v.shape) for v in (offset, weight, of_mask))


@torch.library.custom_op('mmctx::contextual_depthwise_conv', mutates_args=())
@reference_if_unbuilt(_depthwise_reference, _empty_output)
def depthwise(
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Optional[Tensor],
    mask: Optional[Tensor],
    geometry: Sequence[int],
) -> Tensor:
    """The depth-wise operator as Triton kernels.

    ``geometry`` is stride, padding and dilation, height before width each.
    """
    return _kernels().forward(x, offset, weight, bias, mask, geometry)


@torch.library.custom_op(
    'mmctx::contextual_depthwise_conv_backward_of_map', mutates_args=()
)
@reference_if_unbuilt(gradients_of(_without_bias, 0), _empty_gradient_of_map)
def _backward_of_map(
    grad: Tensor, x: Tensor, offset: Tensor, weight: Tensor,
    mask: Optional[Tensor], geometry: Sequence[int],
) -> Tensor:  # fmt: skip
    return _kernels().backward_of_map(grad, x, offset, weight, mask, geometry)


@torch.library.custom_op(
    'mmctx::contextual_depthwise_conv_backward_of_sampling', mutates_args=()
)
@reference_if_unbuilt(
    gradients_of(_without_bias, 1, 2, 3), _empty_gradients_of_sampling
)
def _backward_of_sampling(
    grad: Tensor, x: Tensor, offset: Tensor, weight: Tensor,
    mask: Optional[Tensor], geometry: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    kernels = _kernels()
    return kernels.backward_of_sampling(
        grad, x, offset, weight, mask, geometry
    )


depthwise.register_fake(_empty_output)
_backward_of_map.register_fake(_empty_gradient_of_map)
_backward_of_sampling.register_fake(_empty_gradients_of_sampling)


def _gradients_of_depthwise(
    needed, grad, x, offset, weight, bias, mask, geometry
):
    of_x = of_offset = of_weight = of_bias = of_mask = None
    inputs = grad, x, offset, weight, mask, geometry
    if needed[0]:
        of_x = _backward_of_map(*inputs)
    if needed[1] or needed[2] or needed[4]:
        of_offset, of_weight, of_mask = _backward_of_sampling(*inputs)
    if needed[3]:
        dtype = accumulation_dtype(grad, bias)
        of_bias = grad.sum((0, 2, 3), dtype=dtype).to(bias.dtype)
    return of_x, of_offset, of_weight, of_bias, of_mask if needed[4] else None


register_gradients(depthwise, _gradients_of_depthwise, _depthwise_reference)
