"""Argument checks that operators share."""

from collections.abc import Sequence
from typing import Optional, Union

from torch import Tensor

from .dispatch import refuse_transforms

IntOrPair = Union[int, tuple[int, int]]


def check_tensors(**tensors: tuple[Optional[Tensor], int]) -> None:
    """Check dtypes and dimensions.

    Args:
        **tensors (tuple[Tensor, int]): A tensor or None by name, and its
            number of dimensions.

    Raises:
        TypeError: A tensor is not floating point.
        ValueError: A tensor has the wrong number of dimensions.
    """
    for name, (x, dims) in tensors.items():
        if x is None:
            continue
        if not x.is_floating_point():
            raise TypeError(f'{name} must be floating point, got {x.dtype}.')
        if x.dim() != dims:
            raise ValueError(
                f'{name} must have {dims} dimensions, got shape '
                f'{tuple(x.shape)}.'
            )


def check_shape(
    name: str, x: Optional[Tensor], shape: Sequence[int], meaning: str
) -> None:
    """Raise ValueError unless ``x`` is None or has the shape.

    ``meaning`` spells the shape in letters, such as '(N, C, H, W)'.
    """
    if x is not None and tuple(x.shape) != tuple(shape):
        raise ValueError(
            f'{name} must have shape {meaning} = {tuple(shape)}, got '
            f'{tuple(x.shape)}.'
        )


def check_backend(backend: str, backends: Sequence[str]) -> None:
    """Check a backend that a caller requests.

    Raises:
        ValueError: It is not one of ``backends``, or it would lose
            derivatives where it is called.
    """
    if backend not in backends:
        raise ValueError(
            f'backend must be one of {tuple(backends)}, got {backend!r}.'
        )
    reason = None if backend == 'reference' else refuse_transforms()
    if reason is not None:
        raise ValueError(
            f'backend {backend!r} cannot run here: {reason}; leave backend at '
            "its default, or take 'reference'."
        )


def resolve_pair(name: str, value: IntOrPair, least: int) -> tuple[int, int]:
    """Height and width, broadcast if single.

    Raises:
        ValueError: They are not integers of at least ``least``.
    """
    pair = value if isinstance(value, (tuple, list)) else (value, value)
    if len(pair) != 2 or any(
        not isinstance(v, int) or isinstance(v, bool) or v < least
        for v in pair
    ):
        raise ValueError(
            f'{name} must be an int of at least {least}, or two of them, got '
            f'{value!r}.'
        )
    return tuple(pair)
