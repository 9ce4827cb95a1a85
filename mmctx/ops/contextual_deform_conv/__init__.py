"""Deformable convolution whose kernel differs from image to image."""

from typing import Optional

from torch import Tensor

from ..checks import (
    IntOrPair,
    check_backend,
    check_shape,
    check_tensors,
    resolve_pair,
)
from ..dispatch import refuse_custom_operator
from ..triton_support import check_triton, refuse_triton
from . import cpu
from .autograd import contract, depthwise
from .reference import contextual_deform_conv_reference, contract_reference

__all__ = ['contextual_deform_conv', 'contextual_deform_conv_reference']

BACKENDS = ('reference', 'cpu', 'triton')
_CONTRACTIONS = {'reference': contract_reference, 'cpu': contract}


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


def _refuse_depthwise(x: Tensor, weight: Tensor) -> Optional[str]:
    """Why depth-wise kernels do not compute this convolution."""
    if weight.shape[1:3] == (x.shape[1], 1):
        return None
    return (
        'convolves each channel by itself: weight must have shape '
        f'(N, {x.shape[1]}, 1, KH, KW), got {tuple(weight.shape)}'
    )


def _choose_backend(x: Tensor, weight: Tensor, **others) -> str:
    if refuse_custom_operator() is not None:
        return 'reference'
    reason = refuse_triton(x=x, weight=weight, **others)
    if reason is None and _refuse_depthwise(x, weight) is None:
        return 'triton'
    return 'reference' if cpu.refuse(x) else 'cpu'


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
    between pixels are bilinear, values outside the feature map are zero. This
    is the contextual convolution of Contextual Convolutional Networks (ICLR
    2023, Eq. 4), given its predictions. All channels share the positions.

    Args:
        x (Tensor): (N, C, H, W), floating point.
        offset (Tensor): (N, 2*KH*KW, H', W') in pixels, taps row by row, dy
            before dx, as torchvision orders them. H' and W' are the output
            size of an ordinary convolution.
        weight (Tensor): (N, C_out, C / groups, KH, KW), a kernel per image.
            The number of groups follows from the third size.
        bias (Tensor, optional): (C_out,).
        mask (Tensor, optional): (N, KH*KW, H', W'), factor of each sample.
        stride (int or tuple[int, int]): Height before width, as for the next
            two.
        padding (int or tuple[int, int]): Zeros around the feature map.
        dilation (int or tuple[int, int]): Distance of neighbouring taps.
        backend (str, optional): 'reference' (a few taps at a time,
            by operators of PyTorch), 'cpu' (embedding bags) or 'triton'
            (depth-wise kernels for GPUs), all differentiable any number of
            times. Defaults to the fastest available: on a GPU, kernels that
            are not depth-wise take 'reference', which samples seven taps at a
            time and multiplies them by the kernels in one batched matrix
            product.

    Returns:
        Tensor: (N, C_out, H', W') in the dtype of ``x`` and in channels_last
        memory format. Sums and positions are computed in float32, or float64
        where an input has it; input dtypes may differ, as under autocast.

    Raises:
        TypeError: An input is not floating point.
        ValueError: A shape, number or ``backend`` is not as above, the
            kernel does not fit into the padded feature map, or the backend
            cannot run here.
    """
    check_tensors(
        x=(x, 4),
        offset=(offset, 4),
        weight=(weight, 5),
        bias=(bias, 1),
        mask=(mask, 4),
    )
    stride = resolve_pair('stride', stride, 1)
    padding = resolve_pair('padding', padding, 0)
    dilation = resolve_pair('dilation', dilation, 1)
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
            f'fit into a feature map of {tuple(x.shape[2:])} with padding '
            f'{padding}; give a larger one or more padding.'
        )
    n, taps = x.shape[0], kernel[0] * kernel[1]
    check_shape('offset', offset, (n, 2 * taps, *size), "(N, 2*K*K, H', W')")
    check_shape('mask', mask, (n, taps, *size), "(N, K*K, H', W')")
    check_shape('bias', bias, weight.shape[1:2], '(C_out,)')
    backend = backend or _choose_backend(
        x, weight, offset=offset, bias=bias, mask=mask
    )
    check_backend(backend, BACKENDS)
    if backend == 'triton':
        reason = _refuse_depthwise(x, weight)
        if reason is not None:
            raise ValueError(
                f"backend 'triton' {reason}; leave backend at its default."
            )
        check_triton(x=x, offset=offset, weight=weight, bias=bias, mask=mask)
        geometry = [*stride, *padding, *dilation]
        return depthwise(x, offset, weight, bias, mask, geometry)
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
