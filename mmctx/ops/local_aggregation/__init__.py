"""Aggregation of each pixel's neighbourhood with weights of its own."""

from typing import Optional

from torch import Tensor

from ..checks import check_backend, check_shape, check_tensors
from ..dispatch import refuse_custom_operator
from ..triton_support import check_triton, refuse_triton
from .autograd import aggregate
from .reference import local_aggregation_reference

__all__ = ['local_aggregation', 'local_aggregation_reference']

BACKENDS = ('reference', 'cpu', 'triton')


def _check(
    value: Tensor, weight: Tensor, kernel_size: int, dilation: int, heads: int
) -> None:
    if not isinstance(kernel_size, int) or kernel_size % 2 == 0:
        raise ValueError(
            f'kernel_size must be an odd int, got {kernel_size!r}.'
        )
    if not isinstance(dilation, int) or dilation < 1:
        raise ValueError(f'dilation must be a positive int, got {dilation!r}.')
    check_tensors(value=(value, 4), weight=(weight, 5))
    n, c, *size = value.shape
    groups = weight.shape[1]
    shape = n, groups, kernel_size**2, *size
    check_shape('weight', weight, shape, '(N, G, K*K, H, W)')
    if groups < 1 or c % groups:
        raise ValueError(
            f'The {groups} weight channels must divide the {c} channels of '
            'value.'
        )
    if not isinstance(heads, int) or heads < 1 or groups % heads:
        raise ValueError(
            f'heads must be an int that divides the {groups} weight channels, '
            f'got {heads!r}.'
        )


def _choose_backend(value: Tensor, weight: Tensor) -> str:
    if refuse_custom_operator() is not None:
        return 'reference'
    refused = refuse_triton(value=value, weight=weight) is not None
    return 'cpu' if refused else 'triton'


def local_aggregation(
    value: Tensor,
    weight: Tensor,
    kernel_size: int,
    backend: Optional[str] = None,
    dilation: int = 1,
    heads: int = 1,
) -> Tensor:
    r"""Sum each pixel's K x K neighbourhood with the pixel's own weights.

    .. math::
        out_{n,c,y,x} = \sum_t weight_{n, c \bmod G, t, y, x} \cdot
        value_{n, c, y + D (\lfloor t/K \rfloor - \lfloor K/2 \rfloor),
        x + D (t \bmod K - \lfloor K/2 \rfloor)}

    with zeros outside the feature map. Channels c, c + G, c + 2G, ... share
    one weight. This is the local matrix product of CoTNet (Eq. 5), with the
    channel order of the released code. With several heads, as in CoTNeXt, the
    equation holds for each: of value and weight, a head has consecutive
    channels.

    Args:
        value (Tensor): (N, C, H, W), floating point.
        weight (Tensor): (N, G, K*K, H, W), G dividing C, taps row by row.
        kernel_size (int): Odd side K of the neighbourhood.
        backend (str, optional): 'reference' (the sum as written), 'cpu' (in
            place, by operators of PyTorch) or 'triton' (kernels for GPUs),
            all differentiable any number of times. Defaults to the fastest
            available; a device without Triton takes 'cpu', too.
        dilation (int): Distance D of neighbouring taps. Defaults to 1.
        heads (int): Slices of the channels, dividing G. Defaults to 1.

    Returns:
        Tensor: (N, C, H, W) in the dtype of ``value``. Sums are computed in
        float32, or float64 where an input has it; half-precision inputs may be
        mixed with float32 ones, as under autocast.

    Raises:
        TypeError: An input is not floating point.
        ValueError: A shape, ``kernel_size``, ``backend``, ``dilation`` or
            ``heads`` is not as above, or the backend cannot run here.
    """
    _check(value, weight, kernel_size, dilation, heads)
    backend = backend or _choose_backend(value, weight)
    check_backend(backend, BACKENDS)
    if backend == 'reference':
        return local_aggregation_reference(
            value, weight, kernel_size, dilation, heads
        )
    if backend == 'triton':
        check_triton(value=value, weight=weight)
    return aggregate(value, weight, kernel_size, dilation, heads, backend)
