"""ConTNet."""

from collections.abc import Sequence
from typing import Any, Optional, Union

import torch
import torch.nn as nn
from mmcv.cnn import build_norm_layer
from mmengine.registry import MODELS
from torch import Tensor

from mmctx.models.backbones.base import (
    NUM_STAGES,
    STRIDES,
    ContextBackbone,
    Stage,
    drop_path_rates,
)
from mmctx.models.layers import PatchwiseTransformerEncoder
from mmctx.models.layers.pooling import average_pool
from mmctx.ops import add_conv
from mmctx.registry import register
from mmctx.weights.keys import contnet as keys

#: Image size that image-wise position codes cover.
IMAGE_SIZE = 224


class Stem(nn.Sequential):
    """7 x 7 convolution and max pooling, without norm or activation.

    Args:
        in_channels (int): Channels of the image.
        channels (int): Channels of the output.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels, channels, 7, 2, padding=3, bias=False),
            nn.MaxPool2d(3, stride=2, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) to (N, C, ceil(H / 4), ceil(W / 4))."""
        return super().forward(x.contiguous(memory_format=torch.channels_last))


class ConTBlock(nn.Module):
    """Transformer encoders and a convolution, with a shortcut around them.

    The block starts with norm and ReLU; an identity shortcut branches off
    before them, a projection after them.

    Source: `ConTNet <https://arxiv.org/abs/2104.13497>`_, Sec. 3.3, Fig. 2;
    order of the layers from the released code.

    Args:
        channels (int): Channels C of the input and of the encoders.
        encoders (Sequence[nn.Module]): From (N, C, H, W) to the same.
        conv (nn.Module): From (N, C, H, W) to the block's output.
        norm_cfg (dict): Norm layer.
        shortcut (nn.Module, optional): Projection. Defaults to the identity.
        pool_shortcut (nn.Module, optional): Pooling before the projection.
        pool_input (nn.Module, optional): Pooling of the input.
        drop_rate (float): Dropout of the output. Defaults to 0.
    """

    def __init__(
        self,
        channels: int,
        encoders: Sequence[nn.Module],
        conv: nn.Module,
        norm_cfg: dict,
        shortcut: Optional[nn.Module] = None,
        pool_shortcut: Optional[nn.Module] = None,
        pool_input: Optional[nn.Module] = None,
        drop_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.pool_input = pool_input or nn.Identity()
        self.norm = build_norm_layer(norm_cfg, channels)[1]
        self.act = nn.ReLU(inplace=True)
        self.ste = nn.Sequential(*encoders)
        self.conv = conv
        self.shortcut = shortcut
        if shortcut is not None:
            self.pool_shortcut = pool_shortcut or nn.Identity()
        self.dropout = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C_out, ceil(H / stride), ceil(W / stride))."""
        x = self.pool_input(x)
        active = self.act(self.norm(x))
        branch = self.ste(active)
        if self.shortcut is not None:
            x = self.shortcut(self.pool_shortcut(active))
        del active  # The widest feature maps come next.
        return self.dropout(add_conv(x, branch, self.conv))


def _arch(
    stem_channels: int,
    depths: Sequence[int],
    feedforward_channels: Sequence[int],
    **options: Any,
) -> dict:
    return dict(
        stem_channels=stem_channels,
        depths=depths,
        feedforward_channels=feedforward_channels,
        **options,
    )


@register(MODELS)
class ConTNet(ContextBackbone):
    """Alternating convolutions and transformer encoders.

    It exists in two forms with the same parameters, so that one checkpoint
    fits both:

    - for dense prediction (``dense=True``), as the paper describes it: the
      last block of a stage keeps the resolution, and average pooling between
      stages halves it. The feature map of a stage is that of its last block,
      of stride 4, 8, 16 or 32;
    - for classification (``dense=False``), as released: the last block of
      stages 1 to 3 halves the resolution itself. The feature maps have
      strides 8, 16, 32 and 32, and values that differ from the other form's.

    In both, stage i returns twice its own channels, 2 C_1 * 2**i, i from 0.

    Source: `ConTNet: Why not use convolution and transformer at the same
    time? <https://arxiv.org/abs/2104.13497>`_, Sec. 3 and 4, Table 1;
    released code: https://github.com/yan-hao-tian/ConTNet.

    Args:
        arch (str or dict): 'ti', 's', 'm' or 'b' as released, 'ti_paper'
            with the MLPs of the paper's Table 1 (192 and 384 channels in
            the first two stages, not 196 and 392), or a dict with
            ``stem_channels``, ``depths`` and ``feedforward_channels`` (four
            values each) and, optionally, ``num_heads`` (1, 2, 4, 8),
            ``drop_rates`` (of the encoders of each stage, 0) and
            ``last_drop_rate`` (of the last feature map, 0). Defaults to 'm'.
        dense (bool): Which form, see above. Defaults to True.
        patch_sizes (Sequence[int] or Sequence[Sequence[int]]): Patch size of
            each encoder of a block, or several such lists, which the blocks
            of every stage use in turn (Table 9). Defaults to (7, 14).
        last_patch_size (int): Largest patch size in the last stage, whose
            feature map is 7 x 7 at 224 pixels. Defaults to 7, as released;
            14 as in the paper's text.
        position (str): Position code of the encoders (Table 8), see
            :class:`PatchwiseTransformerEncoder`; the tables of '2d_image'
            are those of 224 x 224 pixels, resized for other images.
            Defaults to '2d'.
        groups (int): Groups of the convolutions of a block, shortcuts
            included (Table 11). Defaults to 1.
        separable (bool): Depthwise separable 3 x 3 convolutions (Table 11).
            Defaults to False.
        avg_down (bool): Average pooling in the shortcuts instead of a
            stride. The dense form has neither. Defaults to False.
        pre_norm, qkv_bias, pad_mask (bool): See
            :class:`PatchwiseTransformerEncoder`. Default to False, True,
            True.
        norm_cfg (dict, optional): Norm of the blocks; that of the encoders
            is layer norm. Defaults to ``dict(type='BN')``.
        drop_path_rate (float): Stochastic depth of the branches in the
            encoders of the last block; it grows linearly from 0 in the
            first block. Defaults to 0.
        **kwargs: See :class:`ContextBackbone`.

    Raises:
        ValueError: An argument is invalid.

    Example:
        >>> maps = ConTNet('m')(torch.rand(2, 3, 224, 224))
        >>> [tuple(m.shape) for m in maps]
        [(2, 128, 56, 56), (2, 256, 28, 28), (2, 512, 14, 14), (2, 1024, 7, 7)]
    """

    key_map = staticmethod(keys.key_map)
    arch_settings = {
        'ti': _arch(48, (1, 1, 1, 1), (196, 392, 768, 768)),
        'ti_paper': _arch(48, (1, 1, 1, 1), (192, 384, 768, 768)),
        's': _arch(64, (1, 1, 1, 1), (256, 512, 1024, 1024)),
        'm': _arch(64, (2, 2, 2, 2), (256, 512, 1024, 1024)),
        'b': _arch(
            64, (3, 4, 6, 3), (256, 512, 1024, 1024),
            drop_rates=(0.0, 0.0, 0.1, 0.1), last_drop_rate=0.2,
        ),
    }  # fmt: skip
    #: Strides of the feature maps in the form for classification.
    classification_strides = (8, 16, 32, 32)

    def __init__(
        self,
        arch: Union[str, dict] = 'm',
        dense: bool = True,
        patch_sizes: Sequence = (7, 14),
        last_patch_size: int = 7,
        position: str = '2d',
        groups: int = 1,
        separable: bool = False,
        avg_down: bool = False,
        pre_norm: bool = False,
        qkv_bias: bool = True,
        pad_mask: bool = True,
        drop_path_rate: float = 0.0,
        **kwargs: Any,
    ) -> None:
        arch = self._resolve_arch(
            arch,
            ('depths', 'feedforward_channels', 'num_heads', 'drop_rates'),
            others=('stem_channels',),
            num_heads=(1, 2, 4, 8),
            drop_rates=(0.0,) * NUM_STAGES,
            last_drop_rate=0.0,
        )
        widths = [arch['stem_channels'] * 2**i for i in range(NUM_STAGES)]
        super().__init__([2 * width for width in widths], **kwargs)
        self.arch = arch
        self.dense = dense
        if not dense:
            strides = self.classification_strides
            self.out_strides = tuple(
                min(strides[i], self.output_stride) for i in self.out_indices
            )
        self.patch_sizes = self._resolve_patch_sizes(patch_sizes)
        self.last_patch_size = last_patch_size
        if groups < 1 or widths[0] % groups:
            raise ValueError(
                f'groups must divide the stem_channels {widths[0]}, got '
                f'{groups!r}.'
            )
        self.groups = groups
        self.separable = separable
        self.avg_down = avg_down
        self.stem = Stem(self.in_channels, widths[0])
        rates = drop_path_rates(drop_path_rate, arch['depths'])
        for i in range(self.num_stages):
            encoder_cfg = dict(
                num_heads=arch['num_heads'][i],
                feedforward_channels=arch['feedforward_channels'][i],
                position=position,
                map_size=IMAGE_SIZE // STRIDES[i],
                pre_norm=pre_norm,
                qkv_bias=qkv_bias,
                drop_rate=arch['drop_rates'][i],
                pad_mask=pad_mask,
            )
            blocks = [
                self._make_block(
                    i, j, widths[i], dict(encoder_cfg, drop_path=rate)
                )
                for j, rate in enumerate(rates[i])
            ]
            self.stages.append(Stage(*blocks, with_cp=self.with_cp))
        self._finish_init()

    @staticmethod
    def _resolve_patch_sizes(patch_sizes: Sequence) -> list[Sequence[int]]:
        """Patch sizes of the encoders, for the blocks in turn."""
        sizes = list(patch_sizes) if isinstance(patch_sizes, Sequence) else []
        if sizes and not isinstance(sizes[0], Sequence):
            sizes = [sizes]
        if not sizes or any(
            not isinstance(block, Sequence)
            or not block
            or any(not isinstance(size, int) or size < 1 for size in block)
            for block in sizes
        ):
            raise ValueError(
                'patch_sizes must hold the patch size of each encoder of a '
                'block, such as (7, 14), or several such lists for the '
                'blocks in turn, such as ((7, 7), (14, 14)), got '
                f'{patch_sizes!r}.'
            )
        return sizes

    def _make_block(
        self, stage: int, index: int, channels: int, encoder_cfg: dict
    ) -> ConTBlock:
        sizes = self.patch_sizes[index % len(self.patch_sizes)]
        if stage == NUM_STAGES - 1:
            sizes = [min(size, self.last_patch_size) for size in sizes]
        encoders = [
            PatchwiseTransformerEncoder(channels, size, **encoder_cfg)
            for size in sizes
        ]
        dilation, options = self.dilations[stage], {}
        if self.dense and stage > 0 and index == 0:
            options.update(pool_input=average_pool(2, *self._entry(stage)))
        if index < self.arch['depths'][stage] - 1:
            conv = self._conv3x3(channels, channels, 1, dilation)
        elif stage < NUM_STAGES - 1:
            stride = 1 if self.dense else self._entry(stage + 1)[0]
            pool = None
            if self.avg_down and not self.dense:
                pool = average_pool(2, stride, dilation)
            conv = self._conv3x3(channels, 2 * channels, stride, dilation)
            options.update(
                shortcut=self._conv1x1(
                    channels, 2 * channels, 1 if pool else stride
                ),
                pool_shortcut=pool,
            )
        else:
            conv = self._conv1x1(channels, 2 * channels)
            options.update(
                shortcut=self._conv1x1(channels, 2 * channels),
                drop_rate=self.arch['last_drop_rate'],
            )
        return ConTBlock(channels, encoders, conv, self.norm_cfg, **options)

    def _conv1x1(
        self, in_channels: int, out_channels: int, stride: int = 1
    ) -> nn.Conv2d:
        return nn.Conv2d(
            in_channels, out_channels, 1, stride,
            groups=self.groups, bias=False,
        )  # fmt: skip

    def _conv3x3(
        self, in_channels: int, out_channels: int, stride: int, dilation: int
    ) -> nn.Module:
        geometry = 3, stride, dilation, dilation
        if self.separable:
            return nn.Sequential(
                nn.Conv2d(
                    in_channels, in_channels, *geometry,
                    groups=in_channels, bias=False,
                ),
                self._conv1x1(in_channels, out_channels),
            )  # fmt: skip
        return nn.Conv2d(
            in_channels, out_channels, *geometry, groups=self.groups,
            bias=False,
        )  # fmt: skip

    def _reset_parameters(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(
                    module.weight, mode='fan_out', nonlinearity='relu'
                )
