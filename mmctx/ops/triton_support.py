"""Host code that the operators' Triton kernels share.

Triton is imported at the first launch: without it, everything else works.
"""

import os
from importlib.util import find_spec
from typing import Optional

import torch
from torch import Tensor

HAS_TRITON = find_spec('triton') is not None
#: torch brings its Triton: 2.8 the oldest whose compiler takes the kernels.
OLD_TRITON = torch.__version__ < (2, 8)
TRITON_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def refuse_triton(**tensors: Optional[Tensor]) -> Optional[str]:
    """Why kernels may not take these tensors (or None)."""
    if not HAS_TRITON:
        return 'needs Triton, which is not installed'
    for name, x in tensors.items():
        if x is None:
            continue
        if not x.is_cuda:
            return f'needs tensors on a GPU, got {name} on {x.device}'
        if x.dtype not in TRITON_DTYPES:
            return f'takes a {name} of {TRITON_DTYPES}, got {x.dtype}'
    if OLD_TRITON:
        return f'needs Triton 3.4 of torch 2.8, got torch {torch.__version__}'
    return None


def check_triton(**tensors: Optional[Tensor]) -> None:
    """Raise ValueError if ``backend='triton'`` cannot run."""
    if HAS_TRITON and os.environ.get('TRITON_INTERPRET') == '1':
        return
    reason = refuse_triton(**tensors)
    if reason is not None:
        raise ValueError(
            f"backend 'triton' {reason}; leave backend at its default. "
            '(TRITON_INTERPRET=1, set before Python starts, interprets the '
            'kernels on a CPU.)'
        )


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
