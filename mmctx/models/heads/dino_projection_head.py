"""The projection head of DINO."""

from typing import Optional

import torch.nn as nn
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule, trunc_normal_init
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
        bottleneck_channels (int): Output channels of the MLP. Defaults to 256.
        norm_cfg (dict, optional): A norm of vectors after the two hidden
            layers, such as ``dict(type='BN1d')``, which small training batches
            need. Defaults to None.
    """

    def __init__(
        self,
        in_channels: int,
        num_prototypes: int = 65536,
        hidden_channels: int = 2048,
        bottleneck_channels: int = 256,
        norm_cfg: Optional[dict] = None,
    ) -> None:
        super().__init__()
        layers = []
        for channels in (in_channels, hidden_channels):
            layers.append(
                nn.Linear(channels, hidden_channels, bias=norm_cfg is None)
            )
            if norm_cfg is not None:
                layers.append(build_norm_layer(norm_cfg, hidden_channels)[1])
            layers.append(nn.GELU())
        self.mlp = nn.Sequential(
            *layers, nn.Linear(hidden_channels, bottleneck_channels)
        )
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                trunc_normal_init(layer, std=0.02)
        self.last_layer = nn.Linear(
            bottleneck_channels, num_prototypes, bias=False
        )

    def forward(self, features: Tensor) -> Tensor:
        """Features (N, C) to logits (N, K), each from -1 to 1."""
        projected = F.normalize(self.mlp(features), dim=-1)
        return F.linear(projected, F.normalize(self.last_layer.weight, dim=-1))
