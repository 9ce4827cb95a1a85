"""The layers of a dynamic context in fewer passes, for GPUs.

A GPU's group norm reads and writes contiguous float32 under autocast, and
passes over the attention six times. Here the attention is written once, by its
convolution without bias, in the dtype and format that the kernels read
fastest. In inference, the kernels apply batch norms and SiLU, too.
"""

from contextlib import suppress
from typing import Optional

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from ..dispatch import refuse_custom_operator, refuse_layers
from ..folding import refuse_norm
from ..triton_support import KernelError, refuse_triton
from .autograd import forward, normed_aggregation


def refuse(
    x, static, attention, value, norm, act, kernel_size, dilation, heads
) -> Optional[str]:
    """Why the layers must be called one by one."""
    reason = (
        refuse_custom_operator()
        or refuse_triton(x=x, static=static)
        or refuse_layers(attention, value, norm, act)
    )
    if reason is not None:
        return reason
    types = nn.Conv2d, None, None, nn.Conv2d, nn.GroupNorm
    layers = list(attention.children())
    if (
        not isinstance(attention, nn.Sequential)
        or len(layers) != 5
        or any(
            known not in (None, type(layer))
            for known, layer in zip(types, layers)
        )
    ):
        return 'the attention has other layers than CoTNet'
    for conv, has_bias in (layers[0], False), (layers[3], True):
        form = conv.kernel_size, conv.stride, conv.padding, conv.groups
        if form != ((1, 1), (1, 1), (0, 0), heads):
            return 'a convolution of the attention is not 1 x 1'
        if (conv.bias is not None) != has_bias:
            return 'a bias of the attention is missing or new'
    groups = layers[4].num_groups * kernel_size**2
    if groups != layers[4].num_channels or layers[4].weight is None:
        return 'the group norm does not normalise the taps of one weight'
    return None


def _conv_of_pair(x: Tensor, static: Tensor, conv: nn.Conv2d) -> Tensor:
    """The convolution of both, which need not be written side by side."""
    if conv.groups == 1:
        weights = conv.weight.chunk(2, 1)
    else:
        weights = conv.weight[:, ::2], conv.weight[:, 1::2]
    out = F.conv2d(x, weights[0], groups=conv.groups)
    return out.add_(F.conv2d(static, weights[1], groups=conv.groups))


def _taps_outside(x: Tensor, groups: int) -> Tensor:
    """Rows g * T + t to rows t * G + g, so that weights of a tap adjoin."""
    return x.unflatten(0, (groups, -1)).transpose(0, 1).flatten(0, 1)


def _are_fixed(value, norm, act) -> bool:
    """Whether the norms can be those of the kernel: in inference."""
    return (
        not torch.is_grad_enabled()
        and isinstance(value, nn.Sequential)
        and len(value) == 2
        and type(act) is nn.SiLU
        and all(
            refuse_norm(layer) is None
            and layer.weight is not None
            and not layer.training
            for layer in (value[1], norm)
        )
    )


def _statistics(norm: nn.BatchNorm2d) -> Tensor:
    """Mean, variance, scale and shift: (4, C)."""
    return torch.stack(
        (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )


def dynamic_context(
    x, static, attention, value, norm, act, kernel_size, dilation, heads
) -> Tensor:
    """As the public function, for what :func:`refuse` takes."""
    conv, hidden_norm, hidden_act, predict, group_norm = attention
    hidden = hidden_act(hidden_norm(_conv_of_pair(x, static, conv)))
    groups, taps = group_norm.num_groups, kernel_size**2
    if heads == 1:
        weight = F.conv2d(hidden, _taps_outside(predict.weight, groups))
        weight = weight.unflatten(1, (taps, groups)).transpose(1, 2)
    else:
        weight = F.conv2d(hidden, predict.weight, groups=heads)
        weight = weight.unflatten(1, (groups, taps))
    parameters = (
        parameter.view(groups, taps)
        for parameter in (predict.bias, group_norm.weight, group_norm.bias)
    )
    options = *parameters, group_norm.eps, kernel_size, dilation, heads
    if _are_fixed(value, norm, act):
        norms = value[1], norm
        with suppress(KernelError):
            return forward(
                value[0](x), weight, *options,
                (*map(_statistics, norms), *(norm.eps for norm in norms)),
            )  # fmt: skip
    return act(norm(normed_aggregation(value(x), weight, *options)))
