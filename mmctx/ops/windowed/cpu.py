"""Functions of windows for inference on a CPU, a few windows at a time."""

from collections.abc import Callable
from itertools import chain

import torch
import torch.nn as nn
from torch import Tensor

from .windows import tile

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
    for windows in chain.from_iterable(tile(*x.shape[1:3], size)):
        row = windows.columns * windows.height * windows.width
        images = max(min(tokens // row, len(x)), 1)
        rows = max(tokens // (images * row), 1)
        for source, target in zip(x.split(images), out.split(images)):
            for band in windows.bands(rows):
                result = function(band.cut(source))
                view = band.view(target)
                view.copy_(result.view(view.shape))
    return out
