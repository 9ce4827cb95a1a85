"""From pooled features to the prototypes of DINO."""

import torch.nn as nn
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor

from mmctx.registry import MODELS, register


@register(MODELS)
class DINOProjectionHead(BaseModule):
    """A 3-layer MLP, an L2 norm and cosines with K prototypes.

    The last layer is weight-normalised with its gains fixed at 1: its logits
    are cosines.

    Source: `Emerging Properties in Self-Supervised Vision Transformers
    <https://arxiv.org/abs/2104.14294>`_, Sec. 3.1 and appendix C.

    Args:
        in_channels (int): Channels C of the features.
        num_prototypes (int): Number of logits K. Defaults to 65536.
        hidden_channels (int): Width of the MLP. Defaults to 2048.
        bottleneck_channels (int): What the MLP ends in. Defaults to 256.
    """

    def __init__(
        self,
        in_channels: int,
        num_prototypes: int = 65536,
        hidden_channels: int = 2048,
        bottleneck_channels: int = 256,
    ) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(in_channels, hidden_channels),
            nn.GELU(),
            nn.Linear(hidden_channels, hidden_channels),
            nn.GELU(),
            nn.Linear(hidden_channels, bottleneck_channels),
        )
        for layer in self.mlp[::2]:
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        self.last_layer = nn.Linear(
            bottleneck_channels, num_prototypes, bias=False
        )

    def forward(self, features: Tensor) -> Tensor:
        """Features (N, C) to logits (N, K), each from -1 to 1."""
        projected = F.normalize(self.mlp(features), dim=-1)
        return F.linear(projected, F.normalize(self.last_layer.weight, dim=-1))
