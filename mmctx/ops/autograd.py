"""Derivatives of any order for operators."""

from collections.abc import Callable, Sequence
from typing import Any, Optional

import torch
from torch import Tensor

from .triton_support import reference_if_unbuilt

Gradients = tuple[Optional[Tensor], ...]


def custom_operator(
    signature: str,
    function: Callable,
    empty: Callable,
    reference: Optional[Callable] = None,
) -> torch.library.CustomOpDef:
    """Make an operator of PyTorch, which compilers take as a whole.

    Args:
        signature (str): Name, inputs and outputs, as
            ``'name(Tensor x, int k) -> Tensor'``.
        function (Callable): Computes it.
        empty (Callable): The results without their values, which says how
            they are laid out.
        reference (Callable, optional): Computes the same, if ``function`` runs
            kernels that may fail to build. Defaults to None.
    """
    if reference is not None:
        function = reference_if_unbuilt(reference, empty)(function)
    name, schema = signature.split('(', 1)
    operator = torch.library.custom_op(
        f'mmctx::{name}', function, mutates_args=(), schema=f'({schema}'
    )
    operator.register_fake(empty)
    return operator


def register_gradients(
    operator: torch.library.CustomOpDef,
    backward: Callable[..., Gradients],
    reference: Callable[..., Tensor],
) -> None:
    """Make a custom operator differentiable.

    ``backward`` computes first derivatives. With ``create_graph=True`` they
    are those of the reference implementation, which autograd can differentiate
    again.

    Args:
        operator (CustomOpDef): Returns one tensor.
        backward (Callable): Takes which inputs need gradients (a tuple of
            bool), the gradient of the output, and all inputs of the operator.
            Returns the gradients of the inputs; trailing ones that are None
            may be left out.
        reference (Callable): As ``operator``, made of differentiable
            operators.
    """

    def setup_context(ctx, inputs, output):
        is_tensor = [isinstance(x, Tensor) for x in inputs]
        ctx.save_for_backward(*(x for x, t in zip(inputs, is_tensor) if t))
        ctx.others = [None if t else x for x, t in zip(inputs, is_tensor)]
        ctx.is_tensor = is_tensor

    def formula(ctx, grad):
        saved = iter(ctx.saved_tensors)
        inputs = [
            next(saved) if is_tensor else other
            for is_tensor, other in zip(ctx.is_tensor, ctx.others)
        ]
        needed = tuple(ctx.needs_input_grad)
        if torch.is_grad_enabled():
            return _differentiate(reference, inputs, grad, needed)
        grads = tuple(backward(needed, grad, *inputs))
        return grads + (None,) * (len(inputs) - len(grads))

    operator.register_autograd(formula, setup_context=setup_context)


def gradients_of(
    function: Callable[..., Tensor], *positions: int
) -> Callable[..., Gradients]:
    """Make a function of (grad, *inputs) that differentiates another.

    It runs inside a custom operator, too, where autograd does not record.

    Args:
        function (Callable): Made of differentiable operators.
        *positions (int): Of the inputs by which to differentiate; the gradient
            by None is None.
    """

    def gradients(grad: Tensor, *inputs: Any) -> Gradients:
        sources = {i: inputs[i] for i in positions if inputs[i] is not None}

        def of_sources(*tensors: Tensor) -> Tensor:
            replaced = dict(zip(sources, tensors))
            return function(
                *(replaced.get(i, x) for i, x in enumerate(inputs))
            )

        _, pull_back = torch.func.vjp(of_sources, *sources.values())
        grads = dict(zip(sources, pull_back(grad)))
        return tuple(grads.get(i) for i in positions)

    return gradients


def _differentiate(
    function: Callable[..., Tensor],
    inputs: Sequence[Any],
    grad: Tensor,
    needed: Sequence[bool],
) -> Gradients:
    """Gradients that can be differentiated themselves."""
    # Aliases, because one input may have been computed from another.
    inputs = [x.view_as(x) if n else x for x, n in zip(inputs, needed)]
    sources = [x for x, n in zip(inputs, needed) if n]
    grads = iter(
        torch.autograd.grad(
            function(*inputs), sources, grad, create_graph=True
        )
    )
    return tuple(next(grads) if n else None for n in needed)
