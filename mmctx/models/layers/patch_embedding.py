"""Patches of a feature map as pixels of a coarser one."""

from typing import Optional

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from torch import Tensor

from mmctx.ops.dispatch import is_known


class TokenNorm(nn.Module):
    """Layer norm over the channels of a feature map and of a class token.

    Args:
        channels (int): Channels C.
        norm_cfg (dict): A norm over the last dimension.
    """

    def __init__(self, channels: int, norm_cfg: dict) -> None:
        super().__init__()
        self.norm = build_norm_layer(norm_cfg, channels)[1]

    def forward(
        self, x: Tensor, token: Optional[Tensor] = None
    ) -> tuple[Tensor, Optional[Tensor]]:
        """(N, C, H, W) and (N, 1, C) to the same."""
        x = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return x, token if token is None else self.norm(token)


def complete_patches(
    x: Tensor, patch_size: int, stride: int, dilation: int
) -> Tensor:
    """Pad a feature map by zeros, where its last patches leave it.

    Args:
        x (Tensor): (N, C, H, W).
        patch_size (int): Pixels on the side of a patch.
        stride (int): Distance of neighbouring patches.
        dilation (int): Distance of neighbouring pixels of a patch.

    Returns:
        Tensor: Larger at the bottom and right, such that a convolution of the
        patches returns ceil(H / stride) x ceil(W / stride) pixels.
    """
    reach = (patch_size - 1) * dilation + 1
    bottom, right = (
        ((side + stride - 1) // stride - 1) * stride + reach - side
        for side in x.shape[2:]
    )
    if is_known(bottom, right) and not (bottom or right):
        return x
    return F.pad(x, (0, right, 0, bottom))


class PatchEmbedding(nn.Module):
    """Project patches to pixels of a coarser feature map, then normalise.

    Args:
        in_channels (int): Channels of the input.
        channels (int): Channels C of the output.
        patch_size (int): Side of a patch.
        norm_cfg (dict): A norm over the last dimension.
        stride (int): Distance of neighbouring patches.
        dilation (int): Distance of neighbouring pixels of a patch.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        patch_size: int,
        norm_cfg: dict,
        stride: int,
        dilation: int,
    ) -> None:
        super().__init__()
        self.geometry = patch_size, stride, dilation
        self.proj = nn.Conv2d(
            in_channels, channels, patch_size, stride, dilation=dilation
        )
        self.norm = TokenNorm(channels, norm_cfg)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) to (N, C, ceil(H / stride), ceil(W / stride))."""
        x = complete_patches(x, *self.geometry)
        x = self.proj(x.contiguous(memory_format=torch.channels_last))
        return self.norm(x)[0]
