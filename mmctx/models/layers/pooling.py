"""Global averages that can exclude padding, and average pooling."""

from typing import Optional

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from mmctx.ops.precision import accumulation_dtype, dtype_without_autocast


def halved(valid: Optional[Tensor], stride: int = 2) -> Optional[Tensor]:
    """Valid sizes (N, 2) after a strided layer; None stays None."""
    return valid if valid is None else (valid + stride - 1) // stride


def global_mean(x: Tensor, valid: Optional[Tensor] = None) -> Tensor:
    """Mean of a feature map over its pixels.

    Args:
        x (Tensor): (N, C, H, W).
        valid (Tensor, optional): Rows and columns (N, 2) of each feature map
            that belong to the image, integers of 1 or more; what is below
            and to the right of them is padding. Defaults to all.

    Returns:
        Tensor: (N, C), under autocast in float32 or better.
    """
    dtype = dtype_without_autocast(x)
    if valid is None:
        return x.mean((2, 3), dtype=dtype)
    rows, columns = (
        torch.arange(side, device=x.device) >= size
        for side, size in zip(x.shape[2:], valid.split(1, dim=1))
    )
    padding = rows[:, None, :, None] | columns[:, None, None]
    total = x.masked_fill(padding, 0).sum((2, 3), dtype=accumulation_dtype(x))
    return (total / valid.prod(1, keepdim=True)).to(dtype)


def sizes_without_padding(images: Tensor) -> Tensor:
    """Height and width of each image, without the zeros that pad a batch.

    OpenMMLab's preprocessors normalise images, then pad them with zeros at
    the bottom and on the right. A row or column in which every channel of
    every pixel equals the mean exactly does not occur in an image.

    Args:
        images (Tensor): Normalised, padded images (N, C, H, W).

    Returns:
        Tensor: (N, 2), integers; at least 1.
    """
    used = (images != 0).any(dim=1)
    sizes = []
    for across in (2, 1):
        line = used.any(dim=across)
        order = torch.arange(1, line.shape[1] + 1, device=images.device)
        sizes.append((line * order).amax(dim=1))
    return torch.stack(sizes, dim=1).clamp(min=1)


def average_pool(kernel_size: int, stride: int, dilation: int) -> nn.Module:
    """Average pooling that halves a feature map, or its dilated stand-in.

    A window of 3 x 3 is centred, and zeros outside count; one of 2 x 2 starts
    at its pixel, and its mean excludes what is outside.

    Args:
        kernel_size (int): 2 or 3.
        stride (int): 2, or 1 to keep the resolution.
        dilation (int): Distance of neighbouring pixels of a window; 1 with a
            stride of 2.
    """
    if stride == 1:
        return DilatedAvgPool2d(kernel_size, dilation)
    if kernel_size == 3:
        return nn.AvgPool2d(3, stride, padding=1)
    return nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False)


class DilatedAvgPool2d(nn.Module):
    """Average pooling with stride 1, at every d-th pixel that of stride 2.

    Args:
        kernel_size (int): As in :func:`average_pool`.
        dilation (int): Distance d of neighbouring pixels of a window.
    """

    def __init__(self, kernel_size: int, dilation: int) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.dilation = dilation

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        total = self._sum(x)
        if self.kernel_size == 3:
            return total / 9
        return total / self._sum(torch.ones_like(x[:1, :1]))

    def _sum(self, x: Tensor) -> Tensor:
        """Over each window, rows first."""
        k, d = self.kernel_size, self.dilation
        before = (k - 1) // 2 * d
        after = (k - 1) * d - before
        x = F.pad(x, (before, after, before, after))
        for dim in (2, 3):
            size = x.shape[dim] - (k - 1) * d
            x = sum(x.narrow(dim, i * d, size) for i in range(k))
        return x
