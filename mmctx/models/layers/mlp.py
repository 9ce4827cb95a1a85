"""The two-layer perceptrons of transformer blocks.

:func:`mmctx.ops.add_mlp` reads their attributes.
"""

from collections import OrderedDict

import torch.nn as nn
from mmcv.cnn import build_norm_layer
from torch import Tensor

from mmctx.ops import pointwise


class TokenMLP(nn.Sequential):
    """Two linear layers with a GELU between them: (..., C) to (..., C).

    Args:
        channels (int): Channels C of input and output.
        hidden_channels (int): Channels between the layers.
        drop_rate (float): Dropout after each layer. Defaults to 0.
    """

    def __init__(
        self, channels: int, hidden_channels: int, drop_rate: float = 0.0
    ) -> None:
        layers = OrderedDict(
            fc1=nn.Linear(channels, hidden_channels),
            act=nn.GELU(),
            drop1=nn.Dropout(drop_rate),
            fc2=nn.Linear(hidden_channels, channels),
            drop2=nn.Dropout(drop_rate),
        )
        super().__init__(layers)


class ConvMLP(nn.Sequential):
    """A norm and two 1 x 1 convolutions with a GELU between them.

    Args:
        channels (int): Channels C of input and output.
        hidden_channels (int): Channels between the convolutions.
        norm_cfg (dict): A norm of feature maps.
    """

    def __init__(
        self, channels: int, hidden_channels: int, norm_cfg: dict
    ) -> None:
        layers = OrderedDict(
            norm=build_norm_layer(norm_cfg, channels)[1],
            fc1=nn.Conv2d(channels, hidden_channels, 1),
            act=nn.GELU(),
            fc2=nn.Conv2d(hidden_channels, channels, 1),
        )
        super().__init__(layers)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        for layer in self:
            x = pointwise(x, layer)
        return x
