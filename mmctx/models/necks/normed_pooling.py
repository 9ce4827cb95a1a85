"""A norm and global pooling between a backbone and a linear classifier."""

from collections.abc import Sequence
from typing import Optional

from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule
from torch import Tensor

from mmctx.registry import MODELS, register


@register(MODELS)
class NormedPooling(BaseModule):
    """Normalise and average the last feature map of a backbone.

    For Container, whose backbone ends without a norm.

    Args:
        in_channels (int): Channels C of the last feature map.
        norm_cfg (dict, optional): A norm of feature maps. Defaults to
            ``dict(type='BN')``.
    """

    def __init__(
        self, in_channels: int, norm_cfg: Optional[dict] = None
    ) -> None:
        super().__init__()
        norm_cfg = norm_cfg or dict(type='BN')
        self.norm = build_norm_layer(norm_cfg, in_channels)[1]

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor]:
        """Feature maps, the last (N, C, H, W), to vectors (N, C)."""
        return (self.norm(maps[-1]).mean(dim=(2, 3)),)
