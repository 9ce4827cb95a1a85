"""Windows of a feature map."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor


class Windows(NamedTuple):
    """A rectangle of a feature map, and the equal windows that tile it.

    Attributes:
        top, left (int): Corner of the rectangle.
        rows, columns (int): Number of windows below and beside each other.
        height, width (int): Sides of each window.
    """

    top: int
    left: int
    rows: int
    columns: int
    height: int
    width: int

    def view(self, x: Tensor) -> Tensor:
        """The rectangle (N, H, W, C) as (N, rows, columns, h, w, C).

        Writing to it writes to the feature map.
        """
        bottom = self.top + self.rows * self.height
        right = self.left + self.columns * self.width
        x = x[:, self.top : bottom, self.left : right]
        x = x.unflatten(1, (self.rows, self.height))
        return x.unflatten(3, (self.columns, self.width)).transpose(2, 3)

    def cut(self, x: Tensor) -> Tensor:
        """Feature map (N, H, W, C) to windows (N, number, h, w, C)."""
        x = self.view(x).contiguous(memory_format=torch.contiguous_format)
        return x.flatten(1, 2)

    def join(self, x: Tensor) -> Tensor:
        """Windows (N, number, h, w, C) to the rectangle (N, H', W', C)."""
        x = x.unflatten(1, (self.rows, self.columns)).transpose(2, 3)
        return x.flatten(3, 4).flatten(1, 2)

    def bands(self, rows: int) -> Iterator['Windows']:
        """The same windows, up to this many rows of them at a time."""
        for first in range(0, self.rows, rows):
            yield self._replace(
                top=self.top + first * self.height,
                rows=min(rows, self.rows - first),
            )


def _divide(length: int, size: int) -> list[tuple[int, int, int]]:
    """Offset, number and size of the whole parts, then those of the rest."""
    count, rest = length // size, length % size
    parts = [(0, count, size)] if count else []
    return [*parts, (length - rest, 1, rest)] if rest else parts


def tile(height: int, width: int, size: int) -> list[list[Windows]]:
    """Windows from the upper left corner, cut off at the border.

    Returns:
        list[list[Windows]]: Up to two rows of up to two rectangles: whole
        windows, and those that the right and bottom borders cut off.
    """
    return [
        [
            Windows(top, left, rows, columns, h, w)
            for left, columns, w in _divide(width, size)
        ]
        for top, rows, h in _divide(height, size)
    ]
