"""Windows of a feature map."""

import torch
from torch import Tensor

from ..dispatch import is_known


def rectangles(x: Tensor, size: int) -> list[list[tuple[Tensor, int, int]]]:
    """Parts of a feature map that equal windows tile.

    Args:
        x (Tensor): (N, H, W, C).
        size (int): Side of a window that the border does not cut off.

    Returns:
        list[list[tuple[Tensor, int, int]]]: Up to two rows of up to two
        views of ``x``, and height h and width w of the windows in each.
    """
    return [
        [(part, h, w) for part, w in _divide(row, 2, size)]
        for row, h in _divide(x, 1, size)
    ]


def _divide(x: Tensor, dim: int, size: int) -> list[tuple[Tensor, int]]:
    """What whole windows fill, what is left, and the side of the windows.

    Whole windows have to fill a size that an exporter leaves open.
    """
    if not is_known(x.shape[dim]):
        return [(x, size)]
    rest = x.shape[dim] % size
    whole = x.shape[dim] - rest
    parts = [(x.narrow(dim, 0, whole), size)] if whole else []
    return [*parts, (x.narrow(dim, whole, rest), rest)] if rest else parts


def view(x: Tensor, height: int, width: int) -> Tensor:
    """(N, H, W, C) as windows (N, rows, columns, h, w, C)."""
    x = x.unflatten(1, (-1, height)).unflatten(3, (-1, width))
    return x.transpose(2, 3)


def cut(x: Tensor, height: int, width: int) -> Tensor:
    """(N, H, W, C) to windows (N, B, h, w, C)."""
    x = view(x, height, width)
    return x.contiguous(memory_format=torch.contiguous_format).flatten(1, 2)


def join(x: Tensor, rows: int) -> Tensor:
    """Windows (N, B, h, w, C), in so many rows, to (N, H, W, C)."""
    x = x.unflatten(1, (rows, -1)).transpose(2, 3)
    return x.flatten(3, 4).flatten(1, 2)
