"""Deformable convolution whose kernel differs from image to image."""

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import (
    IntOrPair,
    check_backend,
    check_shape,
    check_tensors,
    resolve_pair,
)
from ..dispatch import refuse_custom_operator
from ..precision import without_autocast
from ..triton_support import check_triton, refuse_triton
from . import cpu
from .autograd import contract, depthwise
from .reference import (
    Pair,
    contextual_deform_conv_reference,
    contract_reference,
    tap_positions,
)

__all__ = [
    'contextual_deform_conv',
    'contextual_deform_conv_reference',
    'modulated_deform_conv',
]

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


def _check(
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Optional[Tensor],
    mask: Optional[Tensor],
    stride: IntOrPair,
    padding: IntOrPair,
    dilation: IntOrPair,
) -> tuple[Pair, Pair, Pair]:
    """Raise ValueError unless shapes fit; stride, padding and dilation as
    pairs."""
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
    return stride, padding, dilation


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
    geometry = _check(x, offset, weight, bias, mask, stride, padding, dilation)
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
    return _run(backend, x, offset, weight, bias, mask, *geometry)


def _run(backend: str, *inputs) -> Tensor:
    if backend == 'triton':
        *tensors, stride, padding, dilation = inputs
        return depthwise(*tensors, [*stride, *padding, *dilation])
    return contextual_deform_conv_reference(
        *inputs, contract=_CONTRACTIONS[backend]
    )


def _refuse_sampled(
    x: Tensor, weight: Tensor, delta: Optional[Tensor], **others
) -> Optional[str]:
    """Why samples are not stored to be multiplied by a shared kernel."""
    if delta is not None and delta.shape[1] != 1:
        return 'delta differs from output channel to output channel'
    if _refuse_depthwise(x, weight[None]) is None:
        return 'depth-wise kernels store no samples'
    return refuse_custom_operator() or refuse_triton(x=x, **others)


def modulated_deform_conv(
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    delta: Optional[Tensor] = None,
    bias: Optional[Tensor] = None,
    mask: Optional[Tensor] = None,
    stride: IntOrPair = 1,
    padding: IntOrPair = 0,
    dilation: IntOrPair = 1,
    backend: Optional[str] = None,
) -> Tensor:
    """:func:`contextual_deform_conv` by the kernels ``weight + delta``.

    Where all output channels share ``delta``, a GPU forms no kernel per image:
    the samples of all taps are multiplied by ``weight`` as in an ordinary
    convolution, and by ``delta`` to one more output channel per image, which
    is added to all.

    Args:
        x, offset, bias, mask, stride, padding, dilation: As there.
        weight (Tensor): (C_out, C / groups, KH, KW).
        delta (Tensor, optional): (N, C_out, C / groups, KH, KW), or 1 for
            C_out. Defaults to zero.
        backend (str, optional): 'per_image' or 'sampled', as above, both
            differentiable any number of times. Defaults to 'sampled' on a GPU
            where all output channels share ``delta``.

    Returns:
        Tensor: (N, C_out, H', W') in the dtype of ``x``, to which 'sampled'
        rounds the samples, as an ordinary convolution its input.

    Raises:
        TypeError, ValueError: As there.
    """
    check_tensors(
        x=(x, 4),
        offset=(offset, 4),
        weight=(weight, 4),
        delta=(delta, 5),
        bias=(bias, 1),
        mask=(mask, 4),
    )
    n = x.shape[0]
    kernel = weight.expand(n, *weight.shape)
    geometry = _check(x, offset, kernel, bias, mask, stride, padding, dilation)
    shared = delta is not None and delta.shape[1] == 1
    shape = (n, 1 if shared else len(weight), *weight.shape[1:])
    check_shape('delta', delta, shape, '(N, C_out or 1, C / groups, KH, KW)')
    predicted = dict(offset=offset, mask=mask)
    if backend is None:
        refused = _refuse_sampled(x, weight, delta, **predicted)
        backend = 'sampled' if refused is None else 'per_image'
    if backend != 'per_image':  # whose operator sees to its own derivatives
        check_backend(backend, ('per_image', 'sampled'))
    if backend == 'sampled':
        weight = weight.to(x.dtype)
        with without_autocast(x):
            return _multiply_samples(
                x, offset, weight, delta, bias, mask, *geometry
            )
    if delta is not None:
        kernel = (weight + delta).to(x.dtype)
    else:
        kernel = weight.to(x.dtype).expand(n, *weight.shape)
    return contextual_deform_conv(x, offset, kernel, bias, mask, *geometry)


def _multiply_samples(
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    delta: Optional[Tensor],
    bias: Optional[Tensor],
    mask: Optional[Tensor],
    stride: Pair,
    padding: Pair,
    dilation: Pair,
) -> Tensor:
    groups = x.shape[1] // weight.shape[1]
    samples = _sample(
        x, tap_positions(offset, weight.shape[2:], stride, padding, dilation),
        None if mask is None else mask.flatten(2).transpose(1, 2)[:, None],
    )  # fmt: skip
    bias = None if bias is None else bias.to(x.dtype)
    out = F.conv2d(samples, weight.flatten(2)[:, :, None], bias, groups=groups)
    if delta is not None:
        # Summed in the order of memory, if there is one group.
        samples = samples.unflatten(1, (groups, -1)).permute(0, 1, 3, 4, 2)
        delta = delta[:, 0].flatten(2).transpose(1, 2).flatten(1).to(x.dtype)
        extra = torch.einsum('ngpk,nk->ngp', samples.flatten(3), delta)
        out = out.unflatten(1, (groups, -1)) + extra[:, :, None, :, None]
        out = out.flatten(1, 2)
    return out.flatten(2).unflatten(2, offset.shape[2:])


def _sample(x: Tensor, positions: Tensor, mask: Optional[Tensor]) -> Tensor:
    """``x`` at positions (N, 2, P, T), times a mask (N, 1, P, T):
    (N, C, P, T), in channels_last memory format.

    A depth-wise convolution by one tap of weight 1, whose offsets are
    positions since with a stride of 0 the tap stays where it is.
    """
    weight = x.new_ones(1).expand(*x.shape[:2], 1, 1, 1)
    backend = _choose_backend(x, weight, offset=positions, mask=mask)
    still = (0, 0), (0, 0), (1, 1)
    return _run(backend, x, positions, weight, None, mask, *still)
