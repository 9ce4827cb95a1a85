"""A convolution on a shortcut."""

from typing import Optional

import torch.nn as nn
from torch import Tensor

from .dispatch import cpu_variant

__all__ = ['add_conv']


def _refuse(x, branch, conv, scale=None) -> Optional[str]:
    """Why the output of the layers may not be overwritten."""
    if scale is not None:
        return 'the branch has a scale'
    conv = getattr(conv, 'project_out', conv)
    last = conv[-1] if type(conv) is nn.Sequential and len(conv) else conv
    if type(last) is not nn.Conv2d:
        return 'the output may be that of another layer, too'
    return None


def _add_in_place(x, branch, conv, scale=None) -> Tensor:
    return conv(branch).add_(x)


@cpu_variant(_add_in_place, _refuse)
def add_conv(
    x: Tensor,
    branch: Tensor,
    conv: nn.Module,
    scale: Optional[Tensor] = None,
) -> Tensor:
    r"""Add a convolution to a shortcut.

    .. math:: x + s \cdot \mathrm{Conv}(b)

    Evaluation in float32 on a CPU adds in the place of the convolution's
    output, which saves a feature map.

    Args:
        x (Tensor): Output of the shortcut, (N, C_out, H', W').
        branch (Tensor): Input b of the convolution, (N, C, H, W).
        conv (nn.Module): The convolution, or layers that end in one: an
            ``nn.Sequential``, or a module with a ``project_out``.
        scale (Tensor, optional): Factor s, broadcast against ``x``: the
            draws of stochastic depth. Defaults to 1.

    Returns:
        Tensor: As ``x``.
    """
    branch = conv(branch)
    return x + (branch if scale is None else branch * scale)
