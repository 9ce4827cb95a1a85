"""Reference implementation of functions of windows."""

from collections.abc import Callable

import torch
from torch import Tensor

from .windows import tile


def windowed_reference(
    function: Callable[[Tensor], Tensor], x: Tensor, size: int
) -> Tensor:
    """As :func:`mmctx.ops.windowed`, all equal windows in one call."""
    rows = [
        _concatenated([part.join(function(part.cut(x))) for part in row], 2)
        for row in tile(*x.shape[1:3], size)
    ]
    return _concatenated(rows, 1)


def _concatenated(parts: list[Tensor], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)
