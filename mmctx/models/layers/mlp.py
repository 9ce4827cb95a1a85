"""The two-layer perceptrons of transformer blocks.

:func:`mmctx.ops.add_mlp` knows their attributes.
"""

import torch.nn as nn
from mmcv.cnn import build_norm_layer
from torch import Tensor


class TokenMLP(nn.Module):
    """Two linear layers with a GELU between them, on channels-last tensors.

    Args:
        channels (int): Channels C of input and output.
        hidden_channels (int): Channels between the layers.
        drop_rate (float): Dropout after each layer. Defaults to 0.
    """

    def __init__(
        self, channels: int, hidden_channels: int, drop_rate: float = 0.0
    ) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden_channels)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden_channels, channels)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) to (..., C)."""
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))


class ConvMLP(nn.Module):
    """A norm and two 1 x 1 convolutions with a GELU between them.

    Args:
        channels (int): Channels C of input and output.
        hidden_channels (int): Channels between the convolutions.
        norm_cfg (dict): A norm of feature maps.
    """

    def __init__(
        self, channels: int, hidden_channels: int, norm_cfg: dict
    ) -> None:
        super().__init__()
        self.norm = build_norm_layer(norm_cfg, channels)[1]
        self.fc1 = nn.Conv2d(channels, hidden_channels, 1)
        self.act = nn.GELU()
        self.fc2 = nn.Conv2d(hidden_channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H, W)."""
        return self.fc2(self.act(self.fc1(self.norm(x))))
