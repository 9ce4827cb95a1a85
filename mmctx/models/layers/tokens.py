"""What transformer blocks on maps share: MLP, residual sums, slices."""

import torch
import torch.nn as nn
from torch import Tensor

#: Tokens per thread that an MLP takes at a time in evaluation on a CPU.
SLICE = 1024


class TokenMLP(nn.Sequential):
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
        self.act = nn.GELU()
        if drop_rate:
            self.drop1 = nn.Dropout(drop_rate)
        self.fc2 = nn.Linear(hidden_channels, channels)
        if drop_rate:
            self.drop2 = nn.Dropout(drop_rate)


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
    return (
        x.device.type == 'cpu'
        and not module.training
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch.onnx.is_in_onnx_export()
    )
