"""A norm and global pooling between a backbone and a linear classifier."""

from collections.abc import Sequence
from typing import Optional

from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule
from torch import Tensor

from mmctx.registry import MODELS, register


@register(MODELS)
class NormedPooling(BaseModule):
    """The last map of a backbone, normalised and averaged.

    The end of Container, whose maps leave the backbone without a norm.

    Args:
        in_channels (int): Channels C of the last map.
        norm_cfg (dict, optional): A norm of maps. Defaults to
            ``dict(type='BN')``.
    """

    def __init__(
        self, in_channels: int, norm_cfg: Optional[dict] = None
    ) -> None:
        super().__init__()
        norm_cfg = norm_cfg or dict(type='BN')
        self.norm = build_norm_layer(norm_cfg, in_channels)[1]

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor]:
        """Maps, the last (N, C, H, W), to one vector (N, C) per image."""
        return (self.norm(maps[-1]).mean(dim=(2, 3)),)
