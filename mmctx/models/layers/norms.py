"""One norm for maps and for vectors."""

import torch.nn as nn
from mmcv.cnn import build_norm_layer
from torch import Tensor


def build_norm(norm_cfg: dict, channels: int) -> nn.Module:
    """A norm that :func:`apply_norm` applies.

    Args:
        norm_cfg (dict): A norm of maps, such as BN or GN, or LN, which then
            is over the channels of each pixel.
        channels (int): Channels C.
    """
    return build_norm_layer(norm_cfg, channels)[1]


def build_vector_norm(norm_cfg: dict, channels: int) -> nn.Module:
    """As :func:`build_norm`, but layer norms have PyTorch's own epsilon."""
    if norm_cfg['type'] == 'LN':
        norm_cfg = {k: v for k, v in norm_cfg.items() if k != 'eps'}
    return build_norm(norm_cfg, channels)


def apply_norm(norm: nn.Module, x: Tensor) -> Tensor:
    """Normalise a map (N, C, H, W), or a vector (N, C) as a map of 1 x 1.

    So one config serves both: batch norms, synchronised ones included, give
    vectors what their one-dimensional forms would.
    """
    if isinstance(norm, nn.LayerNorm):
        if x.dim() == 2:
            return norm(x)
        return norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return norm(x) if x.dim() == 4 else norm(x[..., None, None]).flatten(1)
