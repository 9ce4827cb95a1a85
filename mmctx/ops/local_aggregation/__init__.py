"""Aggregation of each pixel's neighbourhood with weights of its own."""

import importlib
from typing import Optional

import torch
from torch import Tensor

from ..dispatch import is_exporting
from ..triton_support import check_triton, runs_triton
from .reference import local_aggregation_reference

__all__ = ['local_aggregation', 'local_aggregation_reference']

BACKENDS = ('reference', 'lean', 'triton')


def _module(backend: str):
    """The module of a backend; Triton is imported at its first use."""
    return importlib.import_module(f'.{backend}', __name__)


@torch.library.custom_op('mmctx::local_aggregation', mutates_args=())
def _forward(
    value: Tensor, weight: Tensor, kernel_size: int, backend: str = 'lean'
) -> Tensor:
    return _module(backend).forward(value, weight, kernel_size)


@torch.library.custom_op('mmctx::local_aggregation_backward', mutates_args=())
def _backward(
    grad: Tensor,
    value: Tensor,
    weight: Tensor,
    kernel_size: int,
    backend: str = 'lean',
) -> tuple[Tensor, Tensor]:
    return _module(backend).backward(grad, value, weight, kernel_size)


def _empty_like(x: Tensor, backend: str) -> Tensor:
    """An output as the backend lays it out: Triton keeps the format."""
    return torch.empty_like(x) if backend == 'triton' else x.new_empty(x.shape)


@_forward.register_fake
def _(value, weight, kernel_size, backend='lean'):
    return _empty_like(value, backend)


@_backward.register_fake
def _(grad, value, weight, kernel_size, backend='lean'):
    return _empty_like(value, backend), _empty_like(weight, backend)


def _setup_context(ctx, inputs, output):
    value, weight, ctx.kernel_size, ctx.backend = inputs
    ctx.save_for_backward(value, weight)


def _backward_of_forward(ctx, grad):
    value, weight = ctx.saved_tensors
    grads = _backward(grad, value, weight, ctx.kernel_size, ctx.backend)
    return (*grads, None, None)


_forward.register_autograd(_backward_of_forward, setup_context=_setup_context)


def _check(value: Tensor, weight: Tensor, kernel_size: int) -> None:
    if not isinstance(kernel_size, int) or kernel_size % 2 == 0:
        raise ValueError(
            f'kernel_size must be an odd int, got {kernel_size!r}.'
        )
    for name, x, dims in (('value', value, 4), ('weight', weight, 5)):
        if not x.is_floating_point():
            raise TypeError(f'{name} must be floating point, got {x.dtype}.')
        if x.dim() != dims:
            raise ValueError(
                f'{name} must have {dims} dimensions, got shape '
                f'{tuple(x.shape)}.'
            )
    n, c, h, w = value.shape
    groups = weight.shape[1]
    if weight.shape != (n, groups, kernel_size**2, h, w):
        raise ValueError(
            'weight must have shape (N, G, K*K, H, W) = '
            f'({n}, G, {kernel_size**2}, {h}, {w}) for a value of shape '
            f'{tuple(value.shape)} and kernel_size {kernel_size}, got '
            f'{tuple(weight.shape)}.'
        )
    if groups < 1 or c % groups:
        raise ValueError(
            f'The {groups} weight channels must divide the {c} channels of '
            'value.'
        )


def _choose_backend(value: Tensor, weight: Tensor) -> str:
    if is_exporting():
        return 'reference'
    return 'triton' if runs_triton(value, weight) else 'lean'


def local_aggregation(
    value: Tensor,
    weight: Tensor,
    kernel_size: int,
    backend: Optional[str] = None,
) -> Tensor:
    r"""Sum each pixel's k x k neighbourhood with the pixel's own weights.

    .. math::
        out_{n,c,y,x} = \sum_t weight_{n, c \bmod G, t, y, x} \cdot
        value_{n, c, y + \lfloor t/k \rfloor - \lfloor k/2 \rfloor,
        x + t \bmod k - \lfloor k/2 \rfloor}

    with zeros outside the map. Channels c, c + G, c + 2G, ... share one
    weight. This is the local matrix product of CoTNet (Eq. 5), with the
    channel order of the released code.

    Args:
        value (Tensor): (N, C, H, W), floating point.
        weight (Tensor): (N, G, K*K, H, W), G dividing C, taps row by row.
        kernel_size (int): Odd side K of the neighbourhood.
        backend (str, optional): 'reference' (plain sum, differentiable any
            number of times), 'lean' (in place, once differentiable) or
            'triton' (kernels for GPUs, once differentiable). Defaults to the
            best that the circumstances allow.

    Returns:
        Tensor: (N, C, H, W) in the dtype of ``value``. Sums are taken in
        float32, or float64 where an input has it; half-precision inputs may
        be mixed with float32 ones, as under autocast.

    Raises:
        TypeError: An input is not floating point.
        ValueError: A shape, ``kernel_size`` or ``backend`` is not as above,
            or 'triton' is asked for where it cannot run.
    """
    _check(value, weight, kernel_size)
    backend = backend or _choose_backend(value, weight)
    if backend not in BACKENDS:
        raise ValueError(
            f'backend must be one of {BACKENDS}, got {backend!r}.'
        )
    if backend == 'reference':
        return local_aggregation_reference(value, weight, kernel_size)
    if backend == 'triton':
        check_triton(value=value, weight=weight)
    return _forward(value, weight, kernel_size, backend)
