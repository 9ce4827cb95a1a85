"""Deformable convolution whose kernel differs from image to image."""

import importlib
from typing import Optional, Union

import torch
from torch import Tensor

from ..dispatch import is_exporting
from ..local_aggregation.reference import accumulation_dtype
from ..triton_support import check_triton, empty_rows, runs_triton
from . import bags
from .reference import contextual_deform_conv_reference, contract_reference

__all__ = ['contextual_deform_conv', 'contextual_deform_conv_reference']

BACKENDS = ('reference', 'bags', 'triton')
IntOrPair = Union[int, tuple[int, int]]


@torch.library.custom_op('mmctx::contextual_contract', mutates_args=())
def _contract(
    rows: Tensor, index: Tensor, corner: Tensor, weight: Tensor
) -> Tensor:
    return bags.forward(rows, index, corner, weight)


@torch.library.custom_op(
    'mmctx::contextual_contract_backward', mutates_args=()
)
def _contract_backward(
    grad: Tensor, rows: Tensor, index: Tensor, corner: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return bags.backward(grad, rows, index, corner, weight)


@_contract.register_fake
def _(rows, index, corner, weight):
    n, groups, channels = weight.shape[:3]
    return rows.new_empty(n, index.shape[2], groups * channels)


@_contract_backward.register_fake
def _(grad, rows, index, corner, weight):
    return tuple(x.new_empty(x.shape) for x in (rows, corner, weight))


def _setup_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _backward_of_contract(ctx, grad):
    of_rows, of_corner, of_weight = _contract_backward(
        grad, *ctx.saved_tensors
    )
    return of_rows, None, of_corner, of_weight


_contract.register_autograd(
    _backward_of_contract, setup_context=_setup_context
)


def _kernels():
    """Triton is imported at its first use."""
    return importlib.import_module('.triton', __name__)


@torch.library.custom_op('mmctx::contextual_depthwise_conv', mutates_args=())
def _depthwise(
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Optional[Tensor],
    mask: Optional[Tensor],
    geometry: list[int],
) -> Tensor:
    return _kernels().forward(x, offset, weight, bias, mask, geometry)


@torch.library.custom_op(
    'mmctx::contextual_depthwise_conv_backward_of_map', mutates_args=()
)
def _backward_of_map(
    grad: Tensor,
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    mask: Optional[Tensor],
    geometry: list[int],
) -> Tensor:
    return _kernels().backward_of_map(grad, x, offset, weight, mask, geometry)


@torch.library.custom_op(
    'mmctx::contextual_depthwise_conv_backward_of_sampling', mutates_args=()
)
def _backward_of_sampling(
    grad: Tensor,
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    mask: Optional[Tensor],
    geometry: list[int],
) -> tuple[Tensor, Tensor, Tensor]:
    return _kernels().backward_of_sampling(
        grad, x, offset, weight, mask, geometry
    )


@_depthwise.register_fake
def _(x, offset, weight, bias, mask, geometry):
    return empty_rows(x, offset.shape[2:])


@_backward_of_map.register_fake
def _(grad, x, offset, weight, mask, geometry):
    return empty_rows(x, x.shape[2:])


@_backward_of_sampling.register_fake
def _(grad, x, offset, weight, mask, geometry):
    of_mask = offset.new_empty(0) if mask is None else mask
    return tuple(v.new_empty(v.shape) for v in (offset, weight, of_mask))


def _setup_depthwise(ctx, inputs, output):
    *tensors, ctx.geometry = inputs
    ctx.save_for_backward(*tensors)


def _backward_of_depthwise(ctx, grad):
    x, offset, weight, bias, mask = ctx.saved_tensors
    inputs = grad, x, offset, weight, mask, ctx.geometry
    wanted = ctx.needs_input_grad
    grads = [None] * len(wanted)
    if wanted[0]:
        grads[0] = _backward_of_map(*inputs)
    if wanted[1] or wanted[2] or wanted[4]:
        grads[1], grads[2], of_mask = _backward_of_sampling(*inputs)
        grads[4] = None if mask is None else of_mask
    if wanted[3]:
        dtype = accumulation_dtype(grad, bias)
        grads[3] = grad.sum((0, 2, 3), dtype=dtype).to(bias.dtype)
    return tuple(grads)


_depthwise.register_autograd(
    _backward_of_depthwise, setup_context=_setup_depthwise
)
_CONTRACTIONS = {'reference': contract_reference, 'bags': _contract}


def _pair(name: str, value: IntOrPair, least: int) -> tuple[int, int]:
    """Height and width; raises ValueError for anything else."""
    pair = value if isinstance(value, (tuple, list)) else (value, value)
    if len(pair) != 2 or any(
        not isinstance(v, int) or isinstance(v, bool) or v < least
        for v in pair
    ):
        raise ValueError(
            f'{name} must be an int of at least {least}, or two of them, got '
            f'{value!r}.'
        )
    return tuple(pair)


def _check_tensors(**tensors: tuple[Optional[Tensor], int]) -> None:
    for name, (x, dims) in tensors.items():
        if x is None:
            continue
        if not x.is_floating_point():
            raise TypeError(f'{name} must be floating point, got {x.dtype}.')
        if x.dim() != dims:
            raise ValueError(
                f'{name} must have {dims} dimensions, got shape '
                f'{tuple(x.shape)}.'
            )


def _check_shape(
    name: str, x: Optional[Tensor], shape: tuple, meaning: str
) -> None:
    if x is not None and tuple(x.shape) != tuple(shape):
        raise ValueError(
            f'{name} must have shape {meaning} = {tuple(shape)}, got '
            f'{tuple(x.shape)}.'
        )


def _check_weight(x: Tensor, weight: Tensor) -> None:
    n, c = x.shape[:2]
    images, out_channels, in_channels = weight.shape[:3]
    if images != n:
        raise ValueError(
            f'weight must hold one kernel for each of the {n} images of x, '
            f'got shape {tuple(weight.shape)}; expand a shared kernel with '
            'weight.expand(N, -1, -1, -1, -1).'
        )
    if in_channels < 1 or c % in_channels:
        raise ValueError(
            'weight must have shape (N, C_out, C / groups, K, K); its third '
            f'size {in_channels} does not divide the {c} channels of x.'
        )
    groups = c // in_channels
    if out_channels < 1 or out_channels % groups:
        raise ValueError(
            f'The {groups} groups that weight of shape '
            f'{tuple(weight.shape)} implies for x of {c} channels do not '
            f'divide its {out_channels} output channels.'
        )


def _is_depthwise(x: Tensor, weight: Tensor) -> bool:
    return weight.shape[1] == x.shape[1] and weight.shape[2] == 1


def _check_depthwise(x: Tensor, weight: Tensor) -> None:
    if not _is_depthwise(x, weight):
        raise ValueError(
            "backend 'triton' convolves each channel by itself: weight must "
            f'have shape (N, {x.shape[1]}, 1, KH, KW), got '
            f'{tuple(weight.shape)}; leave backend at its default.'
        )


def _choose_backend(x: Tensor, weight: Tensor, *others) -> str:
    # Compilers take the bags as one operator: there is nothing left to fuse
    # in it, and 49 taps written out take long to compile.
    if is_exporting():
        return 'reference'
    if _is_depthwise(x, weight) and runs_triton(x, weight, *others):
        return 'triton'
    return 'bags' if x.device.type == 'cpu' else 'reference'


def contextual_deform_conv(
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Optional[Tensor] = None,
    mask: Optional[Tensor] = None,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    backend: Optional[str] = None,
) -> Tensor:
    r"""Convolve each image with its own kernel at its own positions.

    .. math::
        out_{n,o}(p) = b_o + \sum_{c,t} W_{n,o,c,t} \cdot m_{n,t}(p) \cdot
        x_{n,c}(s p - padding + dilation \cdot t + \Delta_{n,t}(p))

    over the taps t of the kernel and the channels c of o's group. Values
    between pixels are bilinear, values outside the map are zero. This is the
    contextual convolution of Contextual Convolutional Networks (ICLR 2023,
    Eq. 4), given what its predictors say. All channels share the positions.

    Args:
        x (Tensor): (N, C, H, W), floating point.
        offset (Tensor): (N, 2*KH*KW, H', W') in pixels, taps row by row, dy
            before dx, as torchvision orders them. H' and W' are the output
            size of an ordinary convolution.
        weight (Tensor): (N, C_out, C / groups, KH, KW), a kernel per image.
            The number of groups follows from the third size.
        bias (Tensor, optional): (C_out,).
        mask (Tensor, optional): (N, KH*KW, H', W'), factor of each sample.
        stride (int or tuple[int, int]): Height before width, as below.
        padding (int or tuple[int, int]): Zeros around the map.
        dilation (int or tuple[int, int]): Distance of neighbouring taps.
        backend (str, optional): 'reference' (a few taps at a time,
            differentiable any number of times), 'bags' (embedding bags on a
            CPU, once differentiable) or 'triton' (depth-wise kernels for
            GPUs, once differentiable). Defaults to the best that the
            circumstances allow: on a GPU, kernels that are not depth-wise
            take 'reference', which samples seven taps at a time and
            multiplies them with the kernels in one batched matrix product.

    Returns:
        Tensor: (N, C_out, H', W') in the dtype of ``x`` and in channels_last
        memory format. Sums and positions are taken in float32, or float64
        where an input has it; inputs of different dtypes may be mixed, as
        under autocast.

    Raises:
        TypeError: An input is not floating point.
        ValueError: A shape, number or ``backend`` is not as above, the
            kernel does not fit into the padded map, or 'triton' is asked for
            where it cannot run.
    """
    _check_tensors(
        x=(x, 4),
        offset=(offset, 4),
        weight=(weight, 5),
        bias=(bias, 1),
        mask=(mask, 4),
    )
    stride = _pair('stride', stride, 1)
    padding = _pair('padding', padding, 0)
    dilation = _pair('dilation', dilation, 1)
    _check_weight(x, weight)
    kernel = weight.shape[3:]
    size = tuple(
        (x.shape[2 + i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1)
        // stride[i]
        + 1
        for i in range(2)
    )
    if min(size) < 1:
        raise ValueError(
            f'A kernel of {tuple(kernel)} with dilation {dilation} does not '
            f'fit into a map of {tuple(x.shape[2:])} with padding {padding}; '
            'give a larger map or more padding.'
        )
    n, taps = x.shape[0], kernel[0] * kernel[1]
    _check_shape('offset', offset, (n, 2 * taps, *size), "(N, 2*K*K, H', W')")
    _check_shape('mask', mask, (n, taps, *size), "(N, K*K, H', W')")
    _check_shape('bias', bias, weight.shape[1:2], '(C_out,)')
    backend = backend or _choose_backend(x, weight, offset, bias, mask)
    if backend not in BACKENDS:
        raise ValueError(
            f'backend must be one of {BACKENDS}, got {backend!r}.'
        )
    if backend == 'triton':
        _check_depthwise(x, weight)
        check_triton(x=x, offset=offset, weight=weight, bias=bias, mask=mask)
        geometry = [*stride, *padding, *dilation]
        return _depthwise(x, offset, weight, bias, mask, geometry)
    return contextual_deform_conv_reference(
        x,
        offset,
        weight,
        bias,
        mask,
        stride,
        padding,
        dilation,
        contract=_CONTRACTIONS[backend],
    )
