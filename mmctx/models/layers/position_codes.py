"""Learned position codes of tokens on a grid."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from mmctx.ops.dispatch import is_known


class PositionCode1d(nn.Module):
    """Add one learned vector per token of a window.

    Args:
        channels (int): Channels C.
        size (int): Side of the window.
    """

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.table = nn.Parameter(torch.zeros(size * size, channels))

    def forward(self, x: Tensor) -> Tensor:
        """(..., H, W, C), a window or its upper left part, to the same."""
        height, width = x.shape[-3:-1]
        table = self.table.unflatten(0, (self.size, self.size))
        return x + table[:height, :width].to(x.dtype)


class PositionCode2d(nn.Module):
    """Add a learned code of the row and one of the column.

    Args:
        channels (int): Channels C, an even number: the first half is the
            row's code.
        size (int): Side of the window.
    """

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.zeros(1, size, 1, channels // 2))
        self.columns = nn.Parameter(torch.zeros(1, 1, size, channels // 2))

    def forward(self, x: Tensor) -> Tensor:
        """(..., H, W, C), a window or its upper left part, to the same."""
        height, width = x.shape[-3:-1]
        rows = self._fit(self.rows[0, :, 0], height)
        columns = self._fit(self.columns[0, 0], width)
        rows = rows.unsqueeze(1).expand(-1, width, -1)
        code = torch.cat((rows, columns.expand(height, -1, -1)), 2)
        return x + code.to(x.dtype)

    @staticmethod
    def _fit(table: Tensor, length: int) -> Tensor:
        return table[:length]


class ImagePositionCode2d(PositionCode2d):
    """As :class:`PositionCode2d`, for a whole feature map of any size."""

    @staticmethod
    def _fit(table: Tensor, length: int) -> Tensor:
        if is_known(length) and len(table) == length:
            return table
        table = table.t().unsqueeze(0)
        return F.interpolate(table, length, mode='linear')[0].t()
