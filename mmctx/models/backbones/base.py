"""Base class of all backbones."""

import re
from collections.abc import Callable, Collection, Sequence
from itertools import islice
from typing import Any, Optional, Union

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mmctx.models.backbones.arguments import NUM_STAGES, BackboneArguments
from mmctx.models.layers.norms import use_half_layer_norms
from mmctx.ops.dispatch import is_known
from mmctx.weights.fit import load_backbone

STRIDES = (4, 8, 16, 32)
OUTPUT_STRIDES = (32, 16, 8)
MIN_SIZE = 32
#: What `Pretrained` has and a file that is read on the CPU does not need.
_UNUSED = ('type', 'map_location')


def broadcast_to_stages(value: Any) -> tuple:
    """Per-stage values, broadcast if single."""
    several = isinstance(value, (tuple, list)) and len(value) == NUM_STAGES
    return tuple(value) if several else (value,) * NUM_STAGES


def drop_path_rates(
    rate: float, depths: Sequence[int]
) -> list[tuple[float, ...]]:
    """Stochastic depth of the blocks of each stage.

    It grows linearly from 0 at the first block of the network to ``rate`` at
    the last, whether or not all stages are built.
    """
    last = max(sum(depths) - 1, 1)
    rates = (rate * i / last for i in range(sum(depths)))
    return [tuple(islice(rates, depth)) for depth in depths]


class Stage(nn.Sequential):
    """The blocks of one resolution.

    Args:
        *blocks (nn.Module): Blocks that take a feature map and the stage's
            further arguments.
        with_cp (bool): Recompute each block's activations in the backward
            pass. Defaults to False.
    """

    def __init__(self, *blocks: nn.Module, with_cp: bool = False) -> None:
        super().__init__(*blocks)
        self.with_cp = with_cp

    def forward(self, x: Any, *others: Any) -> Any:
        """(N, C_in, H, W) to (N, C, H', W')."""
        for block in self:
            x = self._run(block, x, *others)
        return x

    def _run(self, block: nn.Module, *args: Any) -> Any:
        if self.with_cp and torch.is_grad_enabled():
            return checkpoint(block, *args, use_reentrant=False)
        return block(*args)


class TokenNorm(nn.Module):
    """Layer norm over the channels of a feature map and of a class token.

    Args:
        channels (int): Channels C.
        norm_cfg (dict): A norm over the last dimension.
    """

    def __init__(self, channels: int, norm_cfg: dict) -> None:
        super().__init__()
        self.norm = build_norm_layer(norm_cfg, channels)[1]

    def forward(
        self, x: Tensor, token: Optional[Tensor] = None
    ) -> tuple[Tensor, Optional[Tensor]]:
        """(N, C, H, W) and (N, 1, C) to the same."""
        x = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return x, token if token is None else self.norm(token)


def complete_patches(
    x: Tensor, patch_size: int, stride: int, dilation: int
) -> Tensor:
    """Pad a feature map by zeros, where its last patches leave it.

    Args:
        x (Tensor): (N, C, H, W).
        patch_size (int): Pixels on the side of a patch.
        stride (int): Distance of neighbouring patches.
        dilation (int): Distance of neighbouring pixels of a patch.

    Returns:
        Tensor: Larger at the bottom and right, such that a convolution of the
        patches returns ceil(H / stride) x ceil(W / stride) pixels.
    """
    reach = (patch_size - 1) * dilation + 1
    height, width = x.shape[2:]
    bottom = ((height - 1) // stride) * stride + reach - height
    right = ((width - 1) // stride) * stride + reach - width
    if is_known(bottom) and is_known(right) and not (bottom or right):
        return x
    return F.pad(x, (0, right, 0, bottom))


class PatchEmbedding(nn.Module):
    """Project patches to pixels of a coarser feature map, then normalise.

    Args:
        in_channels (int): Channels of the input.
        channels (int): Channels C of the output.
        patch_size (int): Side of a patch.
        norm_cfg (dict): A norm over the last dimension.
        stride (int): Distance of neighbouring patches.
        dilation (int): Distance of neighbouring pixels of a patch.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        patch_size: int,
        norm_cfg: dict,
        stride: int,
        dilation: int,
    ) -> None:
        super().__init__()
        self.geometry = patch_size, stride, dilation
        self.proj = nn.Conv2d(
            in_channels, channels, patch_size, stride, dilation=dilation
        )
        self.norm = TokenNorm(channels, norm_cfg)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) to (N, C, ceil(H / stride), ceil(W / stride))."""
        x = complete_patches(x, *self.geometry)
        x = self.proj(x.contiguous(memory_format=torch.channels_last))
        return self.norm(x)[0]


class ContextBackbone(BackboneArguments, BaseModule):
    """A stem and up to four stages of blocks, one feature map per stage.

    A subclass builds ``self.stem`` and appends ``self.num_stages`` modules,
    such as a :class:`Stage`, to ``self.stages``; then it calls
    :meth:`_finish_init`. Only the stages that the outputs need are built,
    so that no parameter is left without a gradient.

    Args:
        stage_channels (Sequence[int]): Channels of the four feature maps.
        in_channels (int): Channels of the image. Defaults to 3.
        out_indices (int or Sequence[int]): Stages whose feature maps are
            returned, 0 to 3 (strides 4, 8, 16, 32); negative ones count from
            the last. Defaults to (0, 1, 2, 3).
        output_stride (int): Largest stride, 32, 16 or 8, as `DeepLab
            <https://arxiv.org/abs/1706.05587>`_ and timm name it. A stage
            that would exceed it keeps the resolution and its convolutions are
            dilated, by 2, then 4. Parameters stay the same, and so do the
            feature maps at every second or fourth pixel, except for global
            means, attention, and samples between pixels. Defaults to 32.
        frozen_stages (int): -1 freezes nothing, 0 the stem, i the stem and
            the first i stages: no gradients, norms in evaluation mode.
            Defaults to -1.
        norm_eval (bool): Keep all batch norms in evaluation mode during
            training. Defaults to False.
        with_cp (bool): Recompute each block's activations in the backward
            pass, which saves memory. Defaults to False.
        norm_cfg (dict, optional): Norm layers. Defaults to those of the
            network; layer norms and norms of feature maps (N, C, H, W) cannot
            replace each other.
        half_norms (bool): Layer norms and layer scales write half precision
            under autocast, which is faster on a GPU. Defaults to False.
        init_cfg (dict or list, optional): Initialisation. ``Pretrained``
            takes an ``mmctx://`` name, a released file, or a checkpoint of
            a classifier, detector or segmentor with this backbone, and with
            ``adapt_input=True`` weights for 3 channels where
            ``in_channels`` is another number.

    Raises:
        TypeError: There is no such argument.
        ValueError: An argument is invalid.

    Attributes:
        out_channels (tuple[int]): Channels of each returned feature map.
        out_strides (tuple[int]): Stride in pixels of each feature map.
    """

    def __init__(
        self,
        stage_channels: Sequence[int],
        /,
        in_channels: int = 3,
        out_indices: Union[int, Sequence[int]] = (0, 1, 2, 3),
        output_stride: int = 32,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        norm_cfg: Optional[dict] = None,
        half_norms: bool = False,
        init_cfg: Optional[Union[dict, list]] = None,
        **unknown: Any,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        if unknown:
            raise TypeError(self._say_unknown(unknown))
        if not isinstance(in_channels, int) or in_channels < 1:
            raise ValueError(
                f'in_channels must be a positive int, got {in_channels!r}.'
            )
        if frozen_stages not in range(-1, NUM_STAGES + 1):
            raise ValueError(
                'frozen_stages must be -1 (nothing), 0 (stem) or 1 to '
                f'{NUM_STAGES} (stem and stages), got {frozen_stages!r}.'
            )
        if (
            not isinstance(output_stride, int)
            or output_stride not in OUTPUT_STRIDES
        ):
            raise ValueError(
                f'output_stride must be one of {OUTPUT_STRIDES}, got '
                f'{output_stride!r}.'
            )
        self.norm_cfg = self._resolve_norm_cfg(norm_cfg)
        self.half_norms = half_norms
        self.in_channels = in_channels
        self.out_indices = self._resolve_out_indices(out_indices)
        self.num_stages = self.out_indices[-1] + 1
        self.out_channels = tuple(stage_channels[i] for i in self.out_indices)
        self.output_stride = output_stride
        self.stage_strides = tuple(min(s, output_stride) for s in STRIDES)
        #: Of the layers of each stage behind the first, see :meth:`_entry`.
        self.dilations = tuple(
            full // kept for full, kept in zip(STRIDES, self.stage_strides)
        )
        self.out_strides = tuple(
            self.stage_strides[i] for i in self.out_indices
        )
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.with_cp = with_cp
        self.stem: nn.Module = nn.Identity()
        self.stages = nn.ModuleList()

    def _entry(self, stage: int) -> tuple[int, int]:
        """Stride and dilation of the layer that leads into a stage.

        It reads what the stage before returns, and is dilated as that is.
        """
        if stage == 0:
            return STRIDES[0], 1
        before, after = self.stage_strides[stage - 1 : stage + 1]
        return after // before, self.dilations[stage - 1]

    def forward(self, x: Tensor, **options) -> tuple[Tensor, ...]:
        """Feature maps of a batch of images.

        Args:
            x (Tensor): Normalised images (N, C, H, W), floating point, H and
                W at least 32.
            **options: Further inputs of a subclass.

        Returns:
            tuple[Tensor]: For each out index i with stride s, a feature map
            (N, C_i, ceil(H / s), ceil(W / s)), contiguous whatever the memory
            format of the input: mmcv's operators, such as RoIAlign, ignore
            strides.

        Raises:
            ValueError: The input is not such a batch, or it has a single
                value per channel where batch norm needs several.
            TypeError: The input is not a floating-point tensor.
        """
        self._check_input(x)
        try:
            return self._forward_maps(x, **options)
        except ValueError as error:
            if 'more than 1 value per channel' not in str(error):
                raise
            raise ValueError(
                f'{type(self).__name__} cannot train on a batch of '
                f'{tuple(x.shape)}: a batch norm would see a single value '
                'per channel. Use larger images, two or more images per GPU '
                '(if the last batch of an epoch is the cause: '
                'train_dataloader.drop_last=True), SyncBN over several GPUs, '
                'norm_eval=True, or a norm_cfg without batch statistics '
                '(such as GN).'
            ) from error

    def _forward_maps(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.stem(x)
        maps = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in self.out_indices:
                maps.append(x)
        # At the end, one by one: no stage runs beside two copies of a map.
        for i, x in enumerate(maps):
            maps[i] = x.contiguous()
        return tuple(maps)

    def _check_input(self, x: Tensor) -> None:
        name = type(self).__name__
        if not isinstance(x, Tensor) or not x.is_floating_point():
            kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
            raise TypeError(
                f'{name} needs a floating-point tensor of normalised images, '
                f'got {kind}. A data_preprocessor converts and normalises '
                'uint8 images.'
            )
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f'{name} needs images of shape (N, {self.in_channels}, H, W), '
                f'got {tuple(x.shape)}. A single image needs a batch '
                'dimension: x.unsqueeze(0).'
            )
        if x.shape[2] < MIN_SIZE or x.shape[3] < MIN_SIZE:
            raise ValueError(
                f'{name} needs images of at least {MIN_SIZE} x {MIN_SIZE} '
                f'pixels, got {x.shape[2]} x {x.shape[3]}. Resize or pad '
                'them.'
            )

    def init_weights(self) -> None:
        """Initialise as ``init_cfg`` says.

        By default the constructor's values stay, as released.
        """
        cfgs = self.init_cfg if self.init_cfg is not None else []
        cfgs = cfgs if isinstance(cfgs, (list, tuple)) else [cfgs]
        pretrained = [c for c in cfgs if c.get('type') == 'Pretrained']
        if not pretrained:
            super().init_weights()
            return
        for cfg in pretrained:
            options = {k: v for k, v in cfg.items() if k not in _UNUSED}
            load_backbone(self, options.pop('checkpoint'), **options)
        self._is_init = True

    #: Pattern of our keys (below 'backbone.') that a file may lack, all or
    #: none: parts that a plain network does not have.
    optional_keys: Optional[re.Pattern] = None

    @staticmethod
    def key_map(keys: Collection[str]) -> Callable[[str], str]:
        """Return the function from a released key to ours, given all keys.

        See :mod:`mmctx.weights.keys`. By default the released keys are ours.
        """
        return lambda key: f'backbone.{key}'

    def unbuilt_keys(self) -> tuple[str, ...]:
        """Key prefixes of stages that this instance does not build.

        A checkpoint may hold them.
        """
        unbuilt = range(len(self.stages), NUM_STAGES)
        return tuple(f'stages.{i}.' for i in unbuilt)

    def _finish_init(self) -> None:
        """Finish construction, once a subclass has its stem and stages."""
        self._reset_parameters()
        self._freeze_stages()
        if self.half_norms:
            use_half_layer_norms(self)

    def _reset_parameters(self) -> None:
        """Initial values that differ from PyTorch's defaults."""

    def train(self, mode: bool = True) -> 'ContextBackbone':
        """Set the mode; frozen stages and ``norm_eval`` stay in force."""
        super().train(mode)
        self._freeze_stages()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def _freeze_stages(self) -> None:
        if self.frozen_stages < 0:
            return
        for module in (self.stem, *self.stages[: self.frozen_stages]):
            module.eval()
            module.requires_grad_(False)

    def get_layer_depth(
        self, param_name: str, prefix: str = ''
    ) -> tuple[int, int]:
        """Depth of a parameter, for layer-wise learning-rate decay.

        The stem is layer 0, the blocks follow one by one, and whatever is
        outside the backbone (neck, head) comes last.

        Args:
            param_name (str): Full name of the parameter.
            prefix (str): Prefix of the backbone's own names, such as
                ``'backbone.'``. Defaults to ''.

        Returns:
            tuple[int, int]: Depth of the layer and number of layers.
        """
        depths = [len(stage) for stage in self.stages]
        num_layers = sum(depths) + 2
        if not param_name.startswith(prefix):
            return num_layers - 1, num_layers
        parts = param_name[len(prefix) :].split('.')
        if parts[0] != 'stages':
            return 0, num_layers
        stage, block = int(parts[1]), int(parts[2])
        return 1 + sum(depths[:stage]) + block, num_layers
