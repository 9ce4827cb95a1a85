"""Norms of feature maps, and of vectors as feature maps of one pixel."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Optional

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm, _InstanceNorm
from torch import Tensor

from mmctx.ops.precision import (
    autocast_device,
    cast_by_autocast,
    without_autocast,
)


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of each pixel of a feature map."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C, H, W)."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class HalfLayerNorm(nn.LayerNorm):
    """Layer norm that reads and writes half precision under autocast.

    Autocast has layer norms read and write float32, and so everything that is
    added to their output. Either way they sum in float32.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) to the same."""
        if not torch.is_autocast_enabled(autocast_device(x)):
            return super().forward(x)
        x = cast_by_autocast(x)
        affine = (
            p if p is None else p.to(x.dtype) for p in (self.weight, self.bias)
        )
        with without_autocast(x):
            return F.layer_norm(x, self.normalized_shape, *affine, self.eps)


class HalfLayerNorm2d(LayerNorm2d, HalfLayerNorm):
    """:class:`LayerNorm2d` in half precision under autocast."""


def use_half_layer_norms(model: nn.Module) -> None:
    """Turn a network's layer norms into :class:`HalfLayerNorm`, in place."""
    halves = {nn.LayerNorm: HalfLayerNorm, LayerNorm2d: HalfLayerNorm2d}
    for module in model.modules():
        if type(module) in halves:
            module.__class__ = halves[type(module)]


def refuse_norm(norm_cfg: Any, *dims: int) -> Optional[str]:
    """Why a norm cannot take tensors of some shape, or None.

    Args:
        norm_cfg (Any): What should be the config of a norm.
        *dims (int): Shape of an input to try, with -1 for the channels.
    """
    if not isinstance(norm_cfg, dict) or 'type' not in norm_cfg:
        return 'it is not a dict with a type'
    try:
        channels = 2 * norm_cfg.get('num_groups', 1)
        norm = build_norm_layer(norm_cfg, channels)[1].eval()
        if isinstance(norm, _InstanceNorm):
            return 'it turns feature maps of one pixel into zeros'
        norm(torch.zeros([channels if d < 0 else d for d in dims]))
    except KeyError:
        return f'there is no layer {norm_cfg["type"]!r}'
    except Exception as error:
        return str(error) or 'an argument is missing'
    return None


def build_norm(norm_cfg: dict, channels: int) -> nn.Module:
    """A norm of feature maps (N, C, H, W).

    Args:
        norm_cfg (dict): Such as BN, GN or LN, which normalises the channels of
            each pixel.
        channels (int): Channels C.
    """
    if norm_cfg['type'] == 'LN':
        norm_cfg = {**norm_cfg, 'type': LayerNorm2d}
    return build_norm_layer(norm_cfg, channels)[1]


def build_vector_norm(norm_cfg: dict, channels: int) -> nn.Module:
    """As :func:`build_norm`, but layer norms have PyTorch's own epsilon."""
    if norm_cfg['type'] == 'LN':
        norm_cfg = {k: v for k, v in norm_cfg.items() if k != 'eps'}
    return build_norm(norm_cfg, channels)


def apply_vector_norm(norm: nn.Module, x: Tensor) -> Tensor:
    """Normalise vectors (N, C) as feature maps of one pixel.

    One config serves both: batch norms, synchronised ones included, treat
    vectors as their one-dimensional forms do. A single vector is normalised as
    in :class:`VectorSequential`.
    """
    with _running_statistics_for_one(norm, x):
        return norm(x[..., None, None]).flatten(1)


class VectorSequential(nn.Sequential):
    """Layers on feature maps of one pixel, a vector per image.

    In a training batch of one image, as the last of an epoch may be, batch
    norms see a single value per channel: they then use their running
    statistics and leave them unchanged.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, 1, 1) to (N, C, 1, 1)."""
        with _running_statistics_for_one(self, x):
            return super().forward(x)


def _running_statistics_for_one(
    module: nn.Module, x: Tensor
) -> AbstractContextManager:
    """Batch norms are in evaluation mode while ``x`` is a single vector.

    Nothing is entered otherwise: torch 2.5 cannot compile a generator.
    """
    norms = [m for m in module.modules() if _takes_batch_statistics(m)]
    is_one = norms and x.numel() == x.shape[1]
    return _in_evaluation_mode(norms) if is_one else nullcontext()


@contextmanager
def _in_evaluation_mode(norms: list[nn.Module]) -> Iterator:
    for norm in norms:
        norm.training = False
    try:
        yield
    finally:
        for norm in norms:
            norm.training = True


def _takes_batch_statistics(module: nn.Module) -> bool:
    """Whether a module normalises by this process's batch alone."""
    if not (isinstance(module, _BatchNorm) and module.training):
        return False
    is_synchronised = (
        isinstance(module, nn.SyncBatchNorm)
        and dist.is_initialized()
        and dist.get_world_size(module.process_group) > 1
    )
    return not is_synchronised
