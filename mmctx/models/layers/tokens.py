"""What transformer blocks on maps share: MLP, residual sums, slices."""

import torch
import torch.nn as nn
from torch import Tensor

from mmctx.ops.cpu_evaluation import is_cpu_evaluation

from .mlp import TokenMLP  # noqa: F401

#: Tokens per thread that an MLP takes at a time in evaluation on a CPU.
SLICE = 4096


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
    return is_cpu_evaluation(x) and not module.training
