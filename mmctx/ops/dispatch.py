"""Decide which implementation of an operator runs.

Every operator has a reference implementation, which defines it. A faster one
stands in only where nobody can tell the difference, and a function here says
why it may not: each returns the reason, or None where it may.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from typing import Any, Optional

import torch
import torch.nn as nn
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from .triton_support import KernelError

_reference_only = False


@contextmanager
def reference() -> Iterator[None]:
    """Run reference implementations only, everywhere in the process.

    Example:
        >>> with mmctx.ops.reference():
        ...     maps = backbone(images)
    """
    global _reference_only
    before, _reference_only = _reference_only, True
    try:
        yield
    finally:
        _reference_only = before


def is_exporting() -> bool:
    """Whether an exporter records, which only knows PyTorch's operators.

    A compiler takes a custom operator as it is, and is faster with it.
    ``torch.compiler.is_exporting`` is True for both.
    """
    compiler = torch.compiler
    return (
        torch.onnx.is_in_onnx_export()
        or torch.jit.is_tracing()
        or (compiler.is_compiling() and not compiler.is_dynamo_compiling())
    )


def is_known(size: Any) -> bool:
    """Whether code may branch on a size, which is an int.

    A size that an exporter leaves open is a symbol, or a tensor that it
    records: a branch would hold for the recorded image alone.
    """
    return isinstance(size, int)


def refuse_custom_operator() -> Optional[str]:
    """Why an operator of ours may not stand in for PyTorch's."""
    if _reference_only:
        return 'mmctx.ops.reference() is active'
    if is_exporting():
        return "an exporter knows PyTorch's own operators only"
    return refuse_transforms()


def refuse_transforms() -> Optional[str]:
    """Why a custom operator would lose derivatives of torch.func."""
    if not torch.compiler.is_compiling() and (
        torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
    ):
        return 'transforms of torch.func and forward-mode AD see through it'
    return None


def refuse_cpu_inference(*tensors: Tensor) -> Optional[str]:
    """Why a variant for inference on a CPU may not run on these tensors.

    Such a variant is not differentiable and computes in float32.
    """
    if torch.compiler.is_compiling():
        return 'a compiler does its own fusion'
    reason = refuse_custom_operator()
    if reason is not None:
        return reason
    if torch.is_grad_enabled():
        return 'gradients are enabled'
    if torch.is_autocast_enabled('cpu'):
        return 'autocast chooses the dtypes'
    if (
        _get_current_dispatch_mode() is not None
        or torch._C._len_torch_function_stack()
    ):
        return 'a dispatch mode observes the operators'
    for x in tensors:
        if type(x) not in (Tensor, nn.Parameter) or x.device.type != 'cpu':
            return 'an input is not an ordinary tensor on a CPU'
        if x.dtype != torch.float32:
            return f'an input is {x.dtype}'
    return None


#: Packages whose classes have known behaviour: exact classes, since
#: parametrised and sharded modules get classes of their own elsewhere.
#: MMEngine's class is what a SyncBN becomes in a single process.
_KNOWN = ('torch.nn.modules.', 'mmctx.', 'mmengine.model.utils')
_HOOKS = (
    '_forward_hooks',
    '_forward_pre_hooks',
    '_backward_hooks',
    '_backward_pre_hooks',
)


def _has_global_hooks() -> bool:
    module = nn.modules.module
    return bool(
        module._global_forward_hooks
        or module._global_forward_pre_hooks
        or module._global_backward_hooks
        or module._global_backward_pre_hooks
    )


def _refuse_module(module: nn.Module) -> Optional[str]:
    state = vars(module)
    name = type(module).__qualname__
    if not type(module).__module__.startswith(_KNOWN):
        return f'{name} may behave differently'
    if any(state[hooks] for hooks in _HOOKS):
        return f'a hook observes a {name}'
    if 'forward' in state or state.get('_compiled_call_impl') is not None:
        return f'the forward of a {name} has been replaced'
    if any(
        type(tensor) not in (Tensor, nn.Parameter, FakeTensor)
        for tensor in (*module._parameters.values(), *module._buffers.values())
        if tensor is not None
    ):
        return f'a tensor of a {name} is not an ordinary one'
    return None


def refuse_layers(*layers: Optional[nn.Module]) -> Optional[str]:
    """Why an operator may not read the parameters of layers itself.

    It may where calling them would make no difference: exact classes of
    PyTorch or mmctx, no hooks, no parametrisation, nothing sharded, quantised
    or adapted, at any depth. Parameters without data are ordinary ones.

    Args:
        *layers (nn.Module, optional): The layers, or None.
    """
    if _reference_only:
        return 'mmctx.ops.reference() is active'
    if torch.compiler.is_compiling():
        return 'a compiler inlines the layers'
    if torch.jit.is_tracing() or _has_global_hooks():
        return 'calls of modules are recorded'
    for layer in layers:
        for module in () if layer is None else layer.modules():
            reason = _refuse_module(module)
            if reason is not None:
                return reason
    return None


def cpu_variant(
    variant: Callable, refuse: Optional[Callable] = None
) -> Callable[[Callable], Callable]:
    """Decorate a reference implementation that has a variant for CPUs.

    The variant runs in inference, unless :func:`refuse_cpu_inference` of the
    tensors among the arguments, :func:`refuse_layers` of the modules, or
    ``refuse`` gives a reason. So the forward of a layer stays its equations.

    Args:
        variant (Callable): Has the signature of the decorated function.
        refuse (Callable, optional): Has the same; returns why the variant may
            not run, or None.
    """

    def decorate(function: Callable) -> Callable:
        @wraps(function)
        def dispatch(*args: Any, **kwargs: Any) -> Any:
            if (
                not _reference_only
                and refuse_cpu_inference() is None
                and _refuse_arguments(*args, *kwargs.values()) is None
                and (refuse is None or refuse(*args, **kwargs) is None)
            ):
                return variant(*args, **kwargs)
            return function(*args, **kwargs)

        return dispatch

    return decorate


def gpu_variant(
    variant: Callable, refuse: Callable
) -> Callable[[Callable], Callable]:
    """Decorate a reference implementation that has kernels for GPUs.

    Args:
        variant (Callable): Has the signature of the decorated function. Where
            a kernel of it cannot be built, the function runs.
        refuse (Callable): Has the same; returns why the variant may not run,
            or None.
    """

    def decorate(function: Callable) -> Callable:
        @wraps(function)
        def dispatch(*args: Any, **kwargs: Any) -> Any:
            if not _reference_only and refuse(*args, **kwargs) is None:
                with suppress(KernelError):
                    return variant(*args, **kwargs)
            return function(*args, **kwargs)

        return dispatch

    return decorate


def _refuse_arguments(*args: Any) -> Optional[str]:
    modules = [arg for arg in args if isinstance(arg, nn.Module)]
    if any(layer.training for m in modules for layer in m.modules()):
        return 'a layer is in training mode'
    tensors = [arg for arg in args if isinstance(arg, Tensor)]
    return refuse_cpu_inference(*tensors) or refuse_layers(*modules)
