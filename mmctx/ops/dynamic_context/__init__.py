"""The dynamic context of CoTNet: attention, values, their aggregation."""

import torch
import torch.nn as nn
from torch import Tensor

from ..local_aggregation import local_aggregation
from . import gpu

__all__ = ['dynamic_context']


def dynamic_context(
    x: Tensor,
    static: Tensor,
    attention: nn.Module,
    value: nn.Module,
    norm: nn.Module,
    act: nn.Module,
    kernel_size: int,
    dilation: int = 1,
    heads: int = 1,
) -> Tensor:
    r"""Attention from queries and static context, applied to the values.

    .. math::
        A = \mathrm{attention}([x, K^1]), \quad
        K^2 = \mathrm{act}(\mathrm{norm}(\mathrm{value}(x) \circledast A))

    Eq. 4 and 5 of CoTNet, with the released code's norms;
    :math:`\circledast` is :func:`mmctx.ops.local_aggregation`. On a GPU, the
    attention's group norm takes part in the aggregation, and so do, in
    inference, batch norm and SiLU behind it.

    Args:
        x (Tensor): Queries, (N, C, H, W).
        static (Tensor): Static context :math:`K^1`, (N, C, H, W).
        attention (nn.Module): (N, 2C, H, W) to weights (N, G*K*K, H, W).
        value (nn.Module): (N, C, H, W) to the same.
        norm (nn.Module): Norm of the aggregated values.
        act (nn.Module): Activation behind it.
        kernel_size (int): Odd side K of the neighbourhood.
        dilation (int): Distance of neighbouring taps. Defaults to 1.
        heads (int): Slices of the channels. With more than one, as in
            CoTNeXt, channels of x and static alternate, so that each group of
            the attention's convolutions sees its slice of both. Defaults to 1.

    Returns:
        Tensor: Dynamic context :math:`K^2`, (N, C, H, W).
    """
    args = attention, value, norm, act, kernel_size, dilation, heads
    if gpu.refuse(x, static, *args) is None:
        return gpu.dynamic_context(x, static, *args)
    if heads == 1:
        pair = torch.cat((x, static), 1)
    else:
        pair = torch.stack((x, static), 2).flatten(1, 2)
    aggregated = local_aggregation(
        value(x),
        attention(pair).unflatten(1, (-1, kernel_size**2)),
        kernel_size,
        dilation=dilation,
        heads=heads,
    )
    return act(norm(aggregated))
