"""Global averages that can exclude padding."""

from typing import Optional

import torch
from torch import Tensor


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
        Tensor: (N, C).
    """
    if valid is None:
        return x.mean((2, 3))
    rows, columns = (
        (torch.arange(side, device=x.device) < size).to(x.dtype) / size
        for side, size in zip(x.shape[2:], valid.split(1, dim=1))
    )
    rows, columns = rows.to(x.dtype), columns.to(x.dtype)
    return torch.einsum('nchw,nh,nw->nc', x, rows, columns)


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
