"""Patch embedding, and the norm over channels behind it."""

from typing import Optional

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from torch import Tensor


class TokenNorm(nn.Module):
    """Layer norm over the channels of a map and of a class token.

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


class PatchEmbedding(nn.Module):
    """Project patches to pixels of a coarser map and normalise them.

    Args:
        in_channels (int): Channels of the input.
        channels (int): Channels C of the output.
        patch_size (int): Side of a patch.
        norm_cfg (dict): A norm over the last dimension.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        patch_size: int,
        norm_cfg: dict,
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_channels, channels, patch_size, patch_size)
        self.norm = TokenNorm(channels, norm_cfg)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) to (N, C, ceil(H / patch), ceil(W / patch))."""
        pad = [-side % self.patch_size for side in x.shape[2:]]
        if any(pad):
            x = F.pad(x, (0, pad[1], 0, pad[0]))
        x = self.proj(x.contiguous(memory_format=torch.channels_last))
        return self.norm(x)[0]
