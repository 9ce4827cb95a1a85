"""The dtypes that operators compute in."""

from typing import Optional

import torch
from torch import Tensor


def accumulation_dtype(*tensors: Optional[Tensor]) -> torch.dtype:
    """The dtype to sum in: at least float32, float64 if any input is."""
    dtype = torch.float32
    for tensor in tensors:
        if tensor is not None:
            dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def autocast_device(x: Tensor) -> str:
    """The type of device whose autocast acts on ``x``."""
    return 'cpu' if x.is_meta else x.device.type  # autocast knows no meta


def without_autocast(x: Tensor) -> torch.autocast:
    """A context in which operators on ``x`` keep the dtypes of inputs."""
    return torch.autocast(autocast_device(x), enabled=False)


def autocast_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which a convolution of ``x`` computes."""
    device = autocast_device(x)
    if torch.is_autocast_enabled(device) and x.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return x.dtype


def cast_by_autocast(x: Tensor) -> Tensor:
    """``x`` as autocast hands it to a convolution."""
    return x.to(autocast_dtype(x))


def dtype_without_autocast(x: Tensor) -> torch.dtype:
    """That of ``x`` for a layer :func:`without_autocast`, in float32."""
    if torch.is_autocast_enabled(autocast_device(x)):
        return accumulation_dtype(x)
    return x.dtype
