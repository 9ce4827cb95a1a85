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
