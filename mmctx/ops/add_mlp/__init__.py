"""The residual branch of a norm and an MLP."""

from typing import Optional

import torch.nn as nn
from torch import Tensor

from ..dispatch import cpu_variant, gpu_variant
from . import cpu, gpu

__all__ = ['add_mlp']


@cpu_variant(cpu.add_mlp, cpu.refuse)
@gpu_variant(gpu.add_mlp, gpu.refuse)
def add_mlp(
    x: Tensor,
    mlp: nn.Module,
    norm: Optional[nn.Module] = None,
    branch: Optional[Tensor] = None,
    scale: Optional[Tensor] = None,
) -> Tensor:
    r"""Add an MLP's output to its input.

    .. math:: x + s \cdot \mathrm{MLP}(\mathrm{Norm}(b))

    Float32 inference on a CPU takes rows of channels slice by slice, so that
    hidden channels stay in cache, with bias and GELU fused into oneDNN's
    matrix product. Half-precision inference on a GPU is one kernel, in which
    hidden channels stay on the chip, for up to 320 channels.

    Args:
        x (Tensor): (..., C), or a feature map (N, C, H, W) for an MLP of
            1 x 1 convolutions.
        mlp (nn.Module): Attributes ``fc1``, ``act`` (a GELU), ``fc2`` and, at
            its start, an optional ``norm``: see
            :class:`mmctx.models.layers.mlp.TokenMLP` and ``ConvMLP``.
        norm (nn.Module, optional): Norm before the MLP.
        branch (Tensor, optional): Input b of the branch, shaped as ``x``.
            Defaults to ``x``.
        scale (Tensor, optional): Factor s, broadcast against ``x``: a layer
            scale, or the draws of stochastic depth. Defaults to 1.

    Returns:
        Tensor: As ``x``.
    """
    branch = x if branch is None else branch
    branch = mlp(branch if norm is None else norm(branch))
    return x + (branch if scale is None else branch * scale)
