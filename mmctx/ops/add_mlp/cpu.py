"""The residual MLP for inference on a CPU, a slice of rows at a time."""

from typing import Optional

import torch
import torch.nn as nn
from torch import Tensor

from ..folding import fold_batch_norm, refuse_folding
from ..linear import linear

#: Rows per thread of a slice. On an AMD EPYC, with 64 to 768 channels as in
#: CoaT, Container and ConvNeXt, it was within 6 % of the fastest number of
#: rows from 512 to 16384.
ROWS = 1024


def refuse(x, mlp, norm=None, branch=None, scale=None) -> Optional[str]:
    """Why these layers are not computed slice by slice."""
    if type(mlp.act) is not nn.GELU or mlp.act.approximate != 'none':
        return 'the activation is not an exact GELU'
    others = {*mlp.children()} - {mlp.fc1, mlp.act, mlp.fc2}
    others.discard(getattr(mlp, 'norm', None))
    if any(type(layer) is not nn.Dropout for layer in others):
        return 'there are further layers'
    kinds = {type(mlp.fc1), type(mlp.fc2)}
    if kinds == {nn.Linear}:
        if scale is not None and scale.shape != x.shape[-1:]:
            return 'the scale is not one factor per channel'
        if norm is not None and not isinstance(norm, nn.LayerNorm):
            return f'the norm is a {type(norm).__name__}'
        return None
    if kinds == {nn.Conv2d} and x.dim() == 4:
        if norm is not None or scale is not None:
            return 'convolutions have their norm inside and no scale'
        return refuse_folding(
            getattr(mlp, 'norm', None), mlp.fc1
        ) or refuse_folding(None, mlp.fc2)
    return 'the layers are neither linear nor 1 x 1 convolutions'


def add_mlp(x, mlp, norm=None, branch=None, scale=None) -> Tensor:
    """As :func:`mmctx.ops.add_mlp`, for layers that :func:`refuse` takes."""
    branch = x if branch is None else branch
    if isinstance(mlp.fc1, nn.Conv2d):
        return _add_convolutions(x, mlp, branch)
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    layers = (mlp.fc1.weight, mlp.fc1.bias, mlp.fc2.weight, mlp.fc2.bias)
    _add_rows(x, branch, out, norm, layers, scale)
    return out


def refuse_feed_forward(branch, x, token, mlp) -> Optional[str]:
    """Why the layers of this branch are not computed slice by slice."""
    return refuse(token, mlp, branch.norm)


def feed_forward(branch, x, token, mlp) -> tuple[Tensor, Tensor]:
    """As the forward of CoaT's branch, for pixels and class tokens."""
    pixels = x.permute(0, 2, 3, 1)
    pixels = add_mlp(pixels, mlp, branch.norm)
    token = add_mlp(token, mlp, branch.norm)
    return pixels.permute(0, 3, 1, 2), token


def _add_convolutions(x: Tensor, mlp: nn.Module, branch: Tensor) -> Tensor:
    """1 x 1 convolutions are matrix products of rows of channels."""
    norm = getattr(mlp, 'norm', None)
    branch, weight, bias = fold_batch_norm(branch, norm, mlp.fc1)
    layers = weight.flatten(1), bias, mlp.fc2.weight.flatten(1), mlp.fc2.bias
    x, branch = x.permute(0, 2, 3, 1), branch.permute(0, 2, 3, 1)
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    _add_rows(x, branch, out, None, layers, None)
    return out.permute(0, 3, 1, 2)


def _add_rows(
    x: Tensor,
    branch: Tensor,
    out: Tensor,
    norm: Optional[nn.Module],
    layers: tuple[Tensor, ...],
    scale: Optional[Tensor],
) -> None:
    weight1, bias1, weight2, bias2 = layers
    channels = x.shape[-1]
    rows = ROWS * torch.get_num_threads()
    parts = (t.reshape(-1, channels).split(rows) for t in (x, branch, out))
    for x_part, branch_part, out_part in zip(*parts):
        if norm is not None:
            branch_part = norm(branch_part)
        # Nested, so that a slice's hidden channels are freed with it.
        branch_part = linear(
            linear(branch_part, weight1, bias1, gelu=True), weight2, bias2
        )
        if scale is not None:
            torch.addcmul(x_part, branch_part, scale, out=out_part)
        else:
            torch.add(x_part, branch_part, out=out_part)
