"""The residual MLP for inference on a CPU, a slice of rows at a time."""

from typing import Optional

import torch
import torch.nn as nn
from torch import Tensor

from ..folding import fold_batch_norm
from ..linear import linear

#: Rows per thread of a slice. On an AMD EPYC, with 64 to 768 channels (CoaT,
#: Container, ConvNeXt), 784 to 2048 rows took the same time within 4 %, 512
#: up to 18 % more.
ROWS = 1024


def refuse(
    x: Tensor,
    mlp: nn.Module,
    norm: Optional[nn.Module],
    scale: Optional[Tensor],
) -> Optional[str]:
    """Why these layers are not computed slice by slice."""
    if mlp.training:
        return 'dropout and batch statistics belong to training'
    if type(mlp.act) is not nn.GELU or mlp.act.approximate != 'none':
        return 'the activation is no exact GELU'
    if scale is not None and scale.shape != x.shape[-1:]:
        return 'the scale is not one factor per channel'
    others = {*mlp.children()} - {mlp.fc1, mlp.act, mlp.fc2}
    others.discard(getattr(mlp, 'norm', None))
    if any(type(layer) is not nn.Dropout for layer in others):
        return 'there are further layers'
    kinds = {type(mlp.fc1), type(mlp.fc2)}
    if kinds == {nn.Linear}:
        return _refuse_norm(norm, nn.LayerNorm)
    if kinds == {nn.Conv2d} and x.dim() == 4 and mlp.fc1.bias is not None:
        norm = getattr(mlp, 'norm', None)
        reason = _refuse_norm(norm, nn.BatchNorm2d)
        if reason is None and norm is not None and norm.running_mean is None:
            reason = 'the norm has no running statistics'
        return reason
    return 'the layers are neither linear nor 1 x 1 convolutions'


def _refuse_norm(norm: Optional[nn.Module], expected: type) -> Optional[str]:
    if norm is None or type(norm) is expected:
        return None
    return f'the norm is a {type(norm).__name__}'


def add_mlp(
    x: Tensor,
    mlp: nn.Module,
    norm: Optional[nn.Module],
    branch: Tensor,
    scale: Optional[Tensor],
) -> Tensor:
    """As :func:`mmctx.ops.add_mlp`, for layers that :func:`refuse` takes."""
    if isinstance(mlp.fc1, nn.Conv2d):
        return _add_convolutions(x, mlp, branch)
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    layers = (mlp.fc1.weight, mlp.fc1.bias, mlp.fc2.weight, mlp.fc2.bias)
    _add_rows(x, branch, out, norm, layers, scale)
    return out


def refuse_feed_forward(
    branch: nn.Module, x: Tensor, token: Tensor, mlp: nn.Module
) -> Optional[str]:
    """Why the layers of this branch are not computed slice by slice."""
    return refuse(token, mlp, branch.norm, None)


def feed_forward(
    branch: nn.Module, x: Tensor, token: Tensor, mlp: nn.Module
) -> tuple[Tensor, Tensor]:
    """As the forward of CoaT's branch, for pixels and class tokens."""
    pixels = x.permute(0, 2, 3, 1)
    pixels = add_mlp(pixels, mlp, branch.norm, pixels, None)
    token = add_mlp(token, mlp, branch.norm, token, None)
    return pixels.permute(0, 3, 1, 2), token


def _add_convolutions(x: Tensor, mlp: nn.Module, branch: Tensor) -> Tensor:
    """1 x 1 convolutions are products of rows of channels."""
    weight, bias = fold_batch_norm(getattr(mlp, 'norm', None), mlp.fc1)
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
        hidden = linear(branch_part, weight1, bias1, gelu=True)
        result = linear(hidden, weight2, bias2)
        if scale is not None:
            torch.addcmul(x_part, result, scale, out=out_part)
        else:
            torch.add(x_part, result, out=out_part)
