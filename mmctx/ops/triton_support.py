"""What the operators' Triton kernels share on the host side.

Triton is imported at the first launch: without it, everything else works.
"""

import os
from importlib.util import find_spec
from typing import Optional

import torch
from torch import Tensor

HAS_TRITON = find_spec('triton') is not None
TRITON_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def runs_triton(*tensors: Optional[Tensor]) -> bool:
    """Whether kernels can take these tensors, None among them, on a GPU."""
    return HAS_TRITON and all(
        x is None or (x.is_cuda and x.dtype in TRITON_DTYPES) for x in tensors
    )


def check_triton(**tensors: Optional[Tensor]) -> None:
    """Raises ValueError or TypeError where ``backend='triton'`` cannot run."""
    if not HAS_TRITON:
        raise ValueError(
            "backend 'triton' needs Triton, which is not installed; leave "
            'backend at its default.'
        )
    for name, x in tensors.items():
        if x is None:
            continue
        if not (x.is_cuda or os.environ.get('TRITON_INTERPRET') == '1'):
            raise ValueError(
                f"backend 'triton' needs tensors on a GPU, got {name} on "
                f'{x.device}; or set TRITON_INTERPRET=1 before Python '
                'starts, to interpret the kernels on the CPU.'
            )
        if x.dtype not in TRITON_DTYPES:
            raise TypeError(
                f"backend 'triton' takes a {name} of {TRITON_DTYPES}, got "
                f'{x.dtype}.'
            )


def empty_rows(x: Tensor, size: tuple[int, int]) -> Tensor:
    """A map like ``x`` of another size, in channels_last memory format."""
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
    """Triton's integer for distances in memory inside any tensor's image."""
    most = max(_span(x) for x in tensors if x is not None)
    return triton_dtype(torch.int32 if most < 2**31 else torch.int64)


def _span(x: Tensor) -> int:
    """Elements from an image's first to its last."""
    return sum((n - 1) * s for n, s in zip(x.shape[1:], x.stride()[1:]))
