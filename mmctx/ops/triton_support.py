"""Host code that the operators' Triton kernels share.

Triton is imported at the first launch: without it, everything else works.
"""

import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from importlib import import_module
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any, Optional, Union

import torch
from torch import Tensor

TRITON_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
#: The first version that compiles the kernels, and the PyTorch it comes with.
OLDEST_TRITON, ITS_TORCH = (3, 3), '2.7'

_launcher: Optional[Callable] = None
_failed: set[str] = set()
_warned = False


class KernelError(RuntimeError):
    """A kernel could not be built or started."""


def _installed_version() -> Optional[tuple[int, ...]]:
    """Triton's version, without importing it, or None.

    Read from its file, as its distribution has another name for each vendor.
    """
    spec = find_spec('triton')
    if spec is None or spec.origin is None:
        return None
    text = Path(spec.origin).read_text(encoding='utf-8')
    match = re.search(r"^__version__ = ['\"](\d+)\.(\d+)", text, re.MULTILINE)
    return tuple(map(int, match.groups())) if match else (0,)


TRITON_VERSION = _installed_version()
ENABLED = os.environ.get('MMCTX_TRITON') != '0'
INTERPRETED = os.environ.get('TRITON_INTERPRET') == '1'


def _refuse_installation() -> Optional[str]:
    """Why no kernel can run in this process (or None)."""
    if not ENABLED:
        return 'is switched off by MMCTX_TRITON=0'
    if TRITON_VERSION is None:
        return 'needs Triton, which is not installed'
    if TRITON_VERSION < OLDEST_TRITON:
        return (
            f'needs Triton {_dotted(OLDEST_TRITON)} or later (PyTorch '
            f'{ITS_TORCH}), got {_dotted(TRITON_VERSION)}'
        )
    return None


def _dotted(version: tuple[int, ...]) -> str:
    return '.'.join(map(str, version))


def refuse_triton(**tensors: Optional[Tensor]) -> Optional[str]:
    """Why kernels may not take these tensors (or None).

    Warns once if tensors on a GPU have to do without.
    """
    for name, x in tensors.items():
        if x is None:
            continue
        if not x.is_cuda:
            return f'needs tensors on a GPU, got {name} on {x.device}'
        if x.dtype not in TRITON_DTYPES:
            return f'takes a {name} of {TRITON_DTYPES}, got {x.dtype}'
    reason = _refuse_installation()
    if reason is not None and ENABLED and not torch.compiler.is_compiling():
        _warn_once(reason)
    return reason


def _warn_once(reason: str) -> None:
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            f"mmctx's fast GPU path {reason}; slower forms of its operators "
            'run instead',
            stacklevel=4,
        )


def check_triton(**tensors: Optional[Tensor]) -> None:
    """Raise ValueError if ``backend='triton'`` cannot run."""
    reason = _refuse_installation()
    if reason is None and not INTERPRETED:
        reason = refuse_triton(**tensors)
    if reason is not None:
        raise ValueError(
            f"backend 'triton' {reason}; leave backend at its default. "
            '(TRITON_INTERPRET=1, set before Python starts, interprets the '
            'kernels on a CPU.)'
        )


@contextmanager
def launching(launcher: Callable) -> Iterator[None]:
    """Hand launches to ``launcher(kernel, programs, args, kwargs)`` instead.

    So a tool sees what would run, on tensors without data.
    """
    global _launcher
    before, _launcher = _launcher, launcher
    try:
        yield
    finally:
        _launcher = before


def launch(
    kernel: Callable,
    programs: Union[int, tuple[int, ...]],
    like: Tensor,
    *args: Any,
    **kwargs: Any,
) -> None:
    """Run so many programs of a kernel.

    Args:
        kernel (Callable): A function decorated with ``triton.jit``.
        programs (int or tuple[int]): The grid. Nothing is run if 0.
        like (Tensor): Any tensor on the device, which need not be the current
            one.
        *args, **kwargs: The kernel's.

    Raises:
        KernelError: It cannot be built, now or at an earlier launch.
    """
    grid = (programs,) if isinstance(programs, int) else programs
    if not prod(grid):
        return
    if _launcher is not None:
        _launcher(kernel, prod(grid), args, kwargs)
        return
    name = f'{kernel.__module__}.{kernel.__name__}'
    if name in _failed:
        raise KernelError(name)
    try:
        with torch.cuda.device_of(like):
            kernel[grid](*args, **kwargs)
    except Exception as error:
        if INTERPRETED:
            raise
        _failed.add(name)
        warnings.warn(
            f'the kernel {name} failed to start: the reference '
            f'implementation runs in its place, slower, from now on '
            f'({type(error).__name__}: {error})',
            stacklevel=2,
        )
        raise KernelError(name) from error


def at_first_use(
    package: str, *names: str, module: str = 'triton'
) -> tuple[Callable, ...]:
    """Functions of a module of an operator, which is imported when called."""

    def of(name: str) -> Callable:
        def run(*args: Any) -> Any:
            return getattr(import_module(f'.{module}', package), name)(*args)

        return run

    return tuple(of(name) for name in names)


def reference_if_unbuilt(
    reference: Callable, like: Callable
) -> Callable[[Callable], Callable]:
    """Decorate the implementation of a custom operator that runs kernels.

    A kernel that cannot be built costs a run speed, but does not end it.

    Args:
        reference (Callable): Computes the same from the same arguments.
        like (Callable): The operator's results without their values, which
            says how they are laid out.
    """

    def decorate(function: Callable) -> Callable:
        @wraps(function)
        def run(*args: Any) -> Any:
            try:
                return function(*args)
            except KernelError:
                results, outs = reference(*args), like(*args)
            for out, result in zip(_tensors(outs), _tensors(results)):
                if result is not None:
                    out.copy_(result)
            return outs

        return run

    return decorate


def _tensors(x: Any) -> tuple:
    return tuple(x) if isinstance(x, (tuple, list)) else (x,)


def empty_rows(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Like ``x`` in another size, in channels_last memory format."""
    return torch.empty(
        (*x.shape[:2], *size),
        dtype=x.dtype,
        device=x.device,
        memory_format=torch.channels_last,
    )


def power_of_two(x: int, most: int) -> int:
    """The next power of two, or ``most`` if that is less."""
    return min(1 << max(x - 1, 0).bit_length(), most)


def triton_dtype(dtype: torch.dtype):
    """Triton's name of a dtype."""
    import triton.language as tl

    return getattr(tl, str(dtype).split('.')[-1])


def index_dtype(*tensors: Optional[Tensor]):
    """Triton's integer type for memory offsets within any tensor's image."""
    most = max(_span(x) for x in tensors if x is not None)
    return triton_dtype(torch.int32 if most < 2**31 else torch.int64)


def _span(x: Tensor) -> int:
    """Elements from an image's first to its last."""
    return sum((n - 1) * s for n, s in zip(x.shape[1:], x.stride()[1:]))
