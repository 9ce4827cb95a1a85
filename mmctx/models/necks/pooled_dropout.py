"""Dropout between global pooling and a linear classifier."""

from collections.abc import Sequence

from mmengine.model import BaseModule
from torch import Tensor, nn

from mmctx.registry import MODELS, register


@register(MODELS)
class PooledDropout(BaseModule):
    """Global average pooling, then dropout.

    mmpretrain's linear head has no dropout before it; this neck replaces
    ``GlobalAveragePooling`` where a recipe asks for dropout.

    Args:
        drop_rate (float): Probability that a channel of the pooled vector is
            zeroed in training.

    Raises:
        ValueError: ``drop_rate`` is not in [0, 1).
    """

    def __init__(self, drop_rate: float) -> None:
        super().__init__()
        if not 0 <= drop_rate < 1:
            raise ValueError(
                f'drop_rate must be in [0, 1), got {drop_rate!r}.'
            )
        self.dropout = nn.Dropout(drop_rate)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Feature maps (N, C, H, W) to vectors (N, C)."""
        return tuple(self.dropout(x.mean(dim=(2, 3))) for x in maps)
