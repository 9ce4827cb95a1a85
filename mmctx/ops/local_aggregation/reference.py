"""Local aggregation in plain PyTorch: the truth that kernels are tested on."""

import torch
import torch.nn.functional as F
from torch import Tensor


def accumulation_dtype(*tensors: Tensor) -> torch.dtype:
    """The dtype to sum in: at least float32, float64 if any input is."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


def local_aggregation_reference(
    value: Tensor, weight: Tensor, kernel_size: int
) -> Tensor:
    """The sum over taps of weight times shifted value, as written in Eq. 5.

    Differentiable by autograd, any floating dtype, any device. Shapes as in
    :func:`mmctx.ops.local_aggregation`, which also checks them.
    """
    n, c, h, w = value.shape
    groups = weight.shape[1]
    dtype = accumulation_dtype(value, weight)
    padding = (kernel_size // 2,) * 4
    padded = F.pad(value.to(dtype), padding).unflatten(1, (-1, groups))
    out = 0
    for tap in range(kernel_size**2):
        dy, dx = divmod(tap, kernel_size)
        shifted = padded[..., dy : dy + h, dx : dx + w]
        out = out + weight[:, None, :, tap].to(dtype) * shifted
    return out.reshape(n, c, h, w).to(value.dtype)
