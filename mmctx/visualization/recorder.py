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
    """One call of a module, with copies of all tensors.

    Attributes:
        args (tuple): Its positional arguments.
        kwargs (dict): Its keyword arguments.
        output (Any): What it returned.
    """

    args: tuple
    kwargs: dict
    output: Any


@contextmanager
def record(*modules: nn.Module) -> Iterator[dict[nn.Module, list[Call]]]:
    """Record the calls of modules by forward hooks.

    The hooks are gone afterwards, and nothing else of the modules changes.
    While they are there, layers are called one by one: a faster form that
    takes the place of several stands back, so results are those of the plain
    forms.

    Args:
        *modules (nn.Module): What to observe.

    Yields:
        dict[nn.Module, list[Call]]: The calls of each module so far.

    Example:
        >>> with record(backbone.stages[2]) as calls:
        ...     backbone(images)
        >>> calls[backbone.stages[2]][0].output.shape
        torch.Size([2, 256, 14, 14])
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
