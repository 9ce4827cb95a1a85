"""What transformer blocks on maps share: MLP, residual sums, slices."""

import torch
import torch.nn as nn
from torch import Tensor

from mmctx.ops import linear
from mmctx.ops.cpu_evaluation import is_cpu_evaluation

#: Tokens per thread that an MLP takes at a time in evaluation on a CPU.
SLICE = 4096


class TokenMLP(nn.Module):
    """Two linear layers with a GELU between, on channels-last tensors.

    Args:
        channels (int): Channels C of input and output.
        hidden_channels (int): Channels between the layers.
        drop_rate (float): Dropout behind each layer. Defaults to 0.
    """

    def __init__(
        self, channels: int, hidden_channels: int, drop_rate: float = 0.0
    ) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden_channels)
        self.fc2 = nn.Linear(hidden_channels, channels)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) to (..., C)."""
        x = linear(x, self.fc1.weight, self.fc1.bias, gelu=True)
        x = linear(self.drop(x), self.fc2.weight, self.fc2.bias)
        return self.drop(x)


def residual(x: Tensor, branch: Tensor) -> Tensor:
    """``x + branch``, in the place of ``branch`` where nothing needs it."""
    if torch.is_grad_enabled() or branch.dtype != x.dtype:
        return x + branch
    return branch.add_(x)


def runs_in_slices(module: nn.Module, x: Tensor) -> bool:
    """Whether to pass tokens slice by slice, overwriting them.

    So in evaluation on a CPU: what is between two layers then stays in its
    cache.
    """
    return is_cpu_evaluation(x) and not module.training
