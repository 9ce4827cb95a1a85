"""The residual MLP for half-precision inference on a GPU, in one kernel."""

from typing import Optional

import torch
import torch.nn as nn
from torch import Tensor

from ..dispatch import refuse_custom_operator, refuse_layers
from ..precision import autocast_dtype
from ..triton_support import refuse_triton
from . import cpu

#: A program takes 128 rows: with fewer than these, most of a GPU would idle.
MIN_ROWS = 8192
#: As many sums as the registers of a program hold.
MOST_CHANNELS = 320


def refuse(x, mlp, norm=None, branch=None, scale=None) -> Optional[str]:
    """Why these layers are called one by one."""
    if torch.is_grad_enabled():
        return 'gradients are enabled'
    return (
        refuse_custom_operator()
        or refuse_triton(x=x, branch=branch, scale=scale)
        or cpu.refuse(x, mlp, norm, branch, scale)
        or _refuse_mode(mlp, _norm(mlp, norm))
        or _refuse_rows(*(_rows(t, mlp) for t in (x, branch) if t is not None))
        or refuse_layers(mlp, norm)
    )


def _refuse_mode(mlp, norm) -> Optional[str]:
    if any(layer.training for layer in mlp.modules()):
        return 'a layer is in training mode'
    if norm is not None and (norm.weight is None or norm.bias is None):
        return 'the norm has no scale or no shift'
    return None


def _refuse_rows(rows, *others) -> Optional[str]:
    channels = rows.shape[-1]
    if autocast_dtype(rows) not in (torch.float16, torch.bfloat16):
        return 'the products are not those of half precision'
    if channels % 8 or channels > MOST_CHANNELS:
        return f'rows have {channels} channels'
    if rows.shape[:-1].numel() < MIN_ROWS:
        return 'there are few rows'
    if not all(x.is_contiguous() for x in (rows, *others)):
        return 'the channels of a row are not contiguous'
    return None


def _norm(mlp, norm) -> Optional[nn.Module]:
    return getattr(mlp, 'norm', None) if norm is None else norm


def _rows(x: Tensor, mlp: nn.Module) -> Tensor:
    """(..., C), a view of a feature map for an MLP of convolutions."""
    return x.permute(0, 2, 3, 1) if isinstance(mlp.fc1, nn.Conv2d) else x


def add_mlp(x, mlp, norm=None, branch=None, scale=None) -> Tensor:
    """As :func:`mmctx.ops.add_mlp`, for layers that :func:`refuse` takes.

    Raises:
        KernelError: The kernel cannot be built.
    """
    from . import triton

    dtype = autocast_dtype(x)
    layers = []
    for layer in (mlp.fc1, mlp.fc2):
        layers += layer.weight.flatten(1).to(dtype), layer.bias
    inputs = (_rows(t, mlp) for t in (x, x if branch is None else branch))
    out = triton.add_mlp(*inputs, _norm(mlp, norm), layers, scale)
    return out.permute(0, 3, 1, 2) if isinstance(mlp.fc1, nn.Conv2d) else out


def refuse_feed_forward(branch, x, token, mlp) -> Optional[str]:
    """Why the layers of this branch are called one by one."""
    return refuse(x.permute(0, 2, 3, 1), mlp, branch.norm)


def feed_forward(branch, x, token, mlp) -> tuple[Tensor, Tensor]:
    """As the forward of CoaT's branch; class tokens are few rows."""
    pixels = add_mlp(x.permute(0, 2, 3, 1), mlp, branch.norm)
    return pixels.permute(0, 3, 1, 2), token + mlp(branch.norm(token))
