"""Record what modules are given and what they return."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn as nn
from mmengine.utils import apply_to
from torch import Tensor

__all__ = ['Call', 'record', 'replay', 'tensors_in']


class Call(NamedTuple):
    """What a module was given and returned, with copies of all tensors."""

    args: tuple
    kwargs: dict
    output: Any


@contextmanager
def record(*modules: nn.Module) -> Iterator[dict[nn.Module, list[Call]]]:
    """Record the calls of modules by forward hooks, until the block ends.

    Nothing of a module changes. As layers are observed, they are called one by
    one: results are those of the plain forms, not of the faster ones that take
    the place of several layers.

    Args:
        *modules (nn.Module): What to observe.

    Yields:
        dict[nn.Module, list[Call]]: The calls of each module so far.
    """
    calls: dict[nn.Module, list[Call]] = {module: [] for module in modules}

    def save(module: nn.Module, *values: Any) -> None:
        copies = apply_to(
            values, torch.is_tensor, lambda x: x.detach().clone()
        )
        calls[module].append(Call(*copies))

    handles = [
        module.register_forward_hook(save, with_kwargs=True)
        for module in calls
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def replay(layer: nn.Module, call: Call, *parts: nn.Module) -> list[Call]:
    """Repeat a call of a layer to see the last call of each of its parts."""
    with record(*parts) as calls:
        layer(*call.args, **call.kwargs)
    return [calls[part][-1] for part in parts]


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors in what a module was given or returned, in order."""
    tensors: list[Tensor] = []
    apply_to(value, torch.is_tensor, tensors.append)
    return tensors
