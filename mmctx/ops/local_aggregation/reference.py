"""Reference implementation of local aggregation."""

import torch.nn.functional as F
from torch import Tensor

from ..precision import accumulation_dtype


def local_aggregation_reference(
    value: Tensor,
    weight: Tensor,
    kernel_size: int,
    dilation: int = 1,
    heads: int = 1,
) -> Tensor:
    """The sum over taps of weight times shifted value, as written in Eq. 5.

    Any floating dtype, any device. Shapes as in
    :func:`mmctx.ops.local_aggregation`, which also checks them.
    """
    n, c, h, w = value.shape
    weight = weight.unflatten(1, (heads, 1, -1))
    dtype = accumulation_dtype(value, weight)
    padded = F.pad(value.to(dtype), (kernel_size // 2 * dilation,) * 4)
    padded = padded.unflatten(1, (heads, -1, weight.shape[3]))
    out = 0
    for tap in range(kernel_size**2):
        dy, dx = (i * dilation for i in divmod(tap, kernel_size))
        shifted = padded[..., dy : dy + h, dx : dx + w]
        out = out + weight[:, :, :, :, tap].to(dtype) * shifted
    return out.reshape(n, c, h, w).to(value.dtype)
