"""Stochastic depth."""

from typing import Optional

import torch.nn as nn
from torch import Tensor


class StochasticDepth(nn.Module):
    """Draws the factors that drop a residual branch of some images.

    One draw serves all parts of a branch: a feature map and its class token,
    or the windows of one image.

    Source: `Deep Networks with Stochastic Depth
    <https://arxiv.org/abs/1603.09382>`_, Sec. 3, scaled at training time.

    Args:
        drop_prob (float): Probability of dropping the branch of an image.
    """

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Optional[Tensor]:
        """Factors of a branch.

        Args:
            x (Tensor): (N, ...), any tensor of the branch's batch.

        Returns:
            Tensor, optional: (N, 1, ...) with as many dimensions as ``x``: 0
            for a dropped image, 1 / (1 - drop_prob) for others. None where
            nothing is dropped.
        """
        if not self.training or self.drop_prob == 0:
            return None
        keep = 1 - self.drop_prob
        shape = x.shape[:1] + (1,) * (x.dim() - 1)
        return x.new_empty(shape).bernoulli_(keep).div_(keep)

    def extra_repr(self) -> str:
        return f'drop_prob={self.drop_prob}'


def add_branch(
    x: Tensor, branch: Tensor, factors: Optional[Tensor] = None
) -> Tensor:
    """Add a residual branch, scaled by the draws of stochastic depth.

    Args:
        x (Tensor): (N, ...).
        branch (Tensor): As ``x``.
        factors (Tensor, optional): (N, 1, ...). None stands for 1.
    """
    return x + (branch if factors is None else branch * factors)
