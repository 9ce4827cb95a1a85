"""Functions of windows for inference on a CPU, a few windows at a time."""

from collections.abc import Callable
from itertools import chain

import torch
import torch.nn as nn
from torch import Tensor

from .windows import cut, rectangles, view

#: Tokens per thread in a call: intermediate results then stay in a core's
#: cache.
TOKENS = 4096


def windowed(
    function: Callable[[Tensor], Tensor],
    x: Tensor,
    size: int,
    *layers: nn.Module,
) -> Tensor:
    """As :func:`mmctx.ops.windowed`."""
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    tokens = TOKENS * torch.get_num_threads()
    parts = (chain.from_iterable(rectangles(t, size)) for t in (x, out))
    for (source, h, w), (target, *_) in zip(*parts):
        row = h * source.shape[2]
        images = max(min(tokens // row, len(x)), 1)
        rows = max(tokens // (images * row), 1) * h
        for some in zip(source.split(images), target.split(images)):
            for read, write in zip(*(t.split(rows, 1) for t in some)):
                windows = view(write, h, w)
                windows.copy_(function(cut(read, h, w)).reshape(windows.shape))
    return out
