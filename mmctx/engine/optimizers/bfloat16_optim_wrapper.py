"""Mixed precision on any device."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn as nn
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from mmengine.runner.amp import autocast

from mmctx.registry import register

__all__ = ['BFloat16OptimWrapper']


@register(OPTIM_WRAPPERS)
class BFloat16OptimWrapper(OptimWrapper):
    """Forward passes in bfloat16, whose gradients need no scaling.

    MMEngine's ``AmpOptimWrapper`` refuses to work on a CPU.

    Args:
        **kwargs: See MMEngine's ``OptimWrapper``.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """What a forward pass of ``model`` runs in."""
        with super().optim_context(model), autocast(dtype=torch.bfloat16):
            yield
