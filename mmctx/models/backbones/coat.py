"""CoaT and CoaT-Lite."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Optional, Union

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmengine.registry import MODELS
from torch import Tensor

from mmctx.models.backbones.base import (
    NUM_STAGES,
    STRIDES,
    ContextBackbone,
    PatchEmbedding,
    Stage,
    TokenNorm,
)
from mmctx.models.backbones.feature_maps import FeatureMaps
from mmctx.models.layers import (
    ConvAttention,
    ConvPositionEncoding,
    ConvRelativePositionEncoding,
)
from mmctx.models.layers.conv_attention import (
    CrossScaleAttention,
    join,
    split,
)
from mmctx.models.layers.mlp import TokenMLP
from mmctx.models.layers.stochastic_depth import StochasticDepth
from mmctx.ops.add_mlp import cpu, gpu
from mmctx.ops.dispatch import cpu_variant, gpu_variant
from mmctx.registry import register
from mmctx.weights.keys import coat as keys

_ARCH_KEYS = 'embed_dims', 'serial_depths', 'mlp_ratios', 'parallel_depth'
CO_SCALES = ('interpolation', 'none', 'cross_attention')
#: The other scales of a parallel group, in the order in which the release
#: adds them.
OTHERS = {'2': '34', '3': '42', '4': '32'}


class TokenMaps(FeatureMaps):
    """Feature maps of a backbone, followed by class tokens (N, C).

    Attributes:
        maps (tuple[Tensor]): One feature map (N, C, H, W) per out index.
        cls_tokens (tuple[Tensor]): Class token of the last stage, or those of
            the stages of a parallel group.
    """

    cls_tokens = FeatureMaps.extras


class Tokens(NamedTuple):
    """The tokens of one scale.

    Attributes:
        map (Tensor): (N, C, H, W), channels last.
        token (Tensor): Class token (N, 1, C).
    """

    map: Tensor
    token: Tensor

    def plus(
        self, branch: tuple[Tensor, Tensor], keep: Optional[Tensor] = None
    ) -> 'Tokens':
        """The residual sum, with factors ``keep`` (N, 1, 1, 1) if given."""
        x, token = branch
        if keep is not None:
            x, token = x * keep, token * keep.squeeze(3)
        return Tokens(self.map + x, self.token + token)


class FeedForward(nn.Module):
    """Residual branch of a norm and an MLP.

    Args:
        channels (int): Channels C.
        norm_cfg (dict): A norm over the last dimension.
        drop_path (float): Probability of dropping the branch.
    """

    def __init__(
        self, channels: int, norm_cfg: dict, drop_path: float
    ) -> None:
        super().__init__()
        self.norm = build_norm_layer(norm_cfg, channels)[1]
        self.drop_path = StochasticDepth(drop_path)

    @cpu_variant(cpu.feed_forward, cpu.refuse_feed_forward)
    @gpu_variant(gpu.feed_forward, gpu.refuse_feed_forward)
    def forward(
        self, x: Tensor, token: Tensor, mlp: nn.Module
    ) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) and (N, 1, C) to the same."""
        pixels = mlp(self.norm(x.permute(0, 2, 3, 1)))
        branch = pixels.permute(0, 3, 1, 2), mlp(self.norm(token))
        return Tokens(x, token).plus(branch, self.drop_path(x))


class SerialBlock(nn.Module):
    """Conv-attention and an MLP at one scale.

    Args:
        channels (int): Channels C.
        mlp_ratio (float): Hidden channels of the MLP per channel.
        norm_cfg (dict): A norm over the last dimension.
        drop_path (float): Probability of dropping a branch.
    """

    def __init__(
        self, channels: int, mlp_ratio: float, norm_cfg: dict, drop_path: float
    ) -> None:
        super().__init__()
        self.norm1 = TokenNorm(channels, norm_cfg)
        self.attention = ConvAttention(channels)
        self.drop_path = StochasticDepth(drop_path)
        self.feed = FeedForward(channels, norm_cfg, drop_path)
        self.mlp = TokenMLP(channels, int(channels * mlp_ratio))

    def forward(
        self, x: Tensor, token: Tensor, stage: 'CoaTStage'
    ) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) and (N, 1, C) to the same.

        The blocks of ``stage`` share its position encodings.
        """
        tokens = Tokens(stage.position_encoding(x), token)
        keep = self.drop_path(x)
        tokens = tokens.plus(
            self.attention(*self.norm1(*tokens), stage.relative_encoding), keep
        )
        return self.feed(*tokens, self.mlp)


class CoaTStage(nn.Module):
    """A patch embedding and the serial blocks of a scale.

    Args:
        embedding (nn.Module): Embeds the feature map of the stage before.
        channels (int): Channels C.
        blocks (Iterable[SerialBlock]): The blocks.
        position_encoding (bool): Build the encoding that starts each block.
        relative_position_encoding (bool): Build that of the attention.
        with_cp (bool): As in :class:`Stage`.
        dilation (int): Of the position encodings.
    """

    _run = Stage._run

    def __init__(
        self,
        embedding: nn.Module,
        channels: int,
        blocks: Iterable[SerialBlock],
        position_encoding: bool,
        relative_position_encoding: bool,
        with_cp: bool,
        dilation: int,
    ) -> None:
        super().__init__()
        self.embedding = embedding
        self.cls_token = nn.Parameter(torch.zeros(1, 1, channels))
        self.position_encoding = (
            ConvPositionEncoding(channels, dilation)
            if position_encoding
            else nn.Identity()
        )
        self.relative_encoding = (
            ConvRelativePositionEncoding(channels, dilation)
            if relative_position_encoding
            else None
        )
        self.blocks = nn.ModuleList(blocks)
        self.with_cp = with_cp

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C_in, H, W) to a feature map and a class token (N, 1, C)."""
        x = self.embedding(x)
        token = self.cls_token.expand(x.shape[0], -1, -1)
        for block in self.blocks:
            x, token = self._run(block, x, token, self)
        return x, token


def _resize(tokens: Tokens, size: Sequence[int]) -> Tokens:
    """Bilinear and without antialiasing, as released.

    In the dtype of the feature map, which a GPU's autocast makes float32.
    """
    x, token = tokens
    with torch.autocast('cuda', enabled=False):
        x = F.interpolate(x, size, mode='bilinear', align_corners=False)
    return Tokens(x, token)


class ParallelBlock(nn.Module):
    """Conv-attention at several scales, which exchange their features.

    Args:
        channels (int): Channels C of every scale.
        mlp_ratio (float): Hidden channels of the MLP per channel.
        norm_cfg (dict): A norm over the last dimension.
        drop_path (float): Probability of dropping a branch.
        co_scale (str): How scales exchange features, see :class:`CoaT`.
        scales (Sequence[str]): Names of the scales.
        outputs (Sequence[str]): Scales to return; parts that serve only others
            are not built.
    """

    def __init__(
        self,
        channels: int,
        mlp_ratio: float,
        norm_cfg: dict,
        drop_path: float,
        co_scale: str,
        scales: Sequence[str],
        outputs: Sequence[str],
    ) -> None:
        super().__init__()
        self.scales, self.outputs = tuple(scales), tuple(outputs)
        self.is_cross = co_scale == 'cross_attention'
        self.is_mixed = co_scale == 'interpolation'
        attention = CrossScaleAttention if self.is_cross else ConvAttention
        self.norm1 = nn.ModuleDict(
            {s: TokenNorm(channels, norm_cfg) for s in scales}
        )
        self.attention = nn.ModuleDict(
            {s: attention(channels) for s in scales}
        )
        self.drop_path = StochasticDepth(drop_path)
        self.feed = nn.ModuleDict(
            {s: FeedForward(channels, norm_cfg, drop_path) for s in outputs}
        )
        self.mlp = TokenMLP(channels, int(channels * mlp_ratio))
        if self.is_cross:
            for scale in {*scales}.difference(outputs):
                # Only its keys and values are used.
                qkv = self.attention[scale].qkv
                self.attention[scale] = nn.ModuleDict(dict(qkv=qkv))

    def forward(self, *args) -> tuple[Tensor, ...]:
        """A feature map and a class token of each scale to those of outputs.

        Args:
            *args: (N, C, H, W) and (N, 1, C) for each scale, then the stages
                of the network, whose position encodings all blocks share.
        """
        *tensors, stages = args
        tokens, encodings = {}, {}
        for i, s in enumerate(self.scales):
            x, token = tensors[2 * i : 2 * i + 2]
            stage = stages[int(s) - 1]
            tokens[s] = Tokens(stage.position_encoding(x), token)
            encodings[s] = stage.relative_encoding
        exchange = self._attend_across if self.is_cross else self._attend
        branches = exchange(tokens, encodings)
        out = []
        for s in self.outputs:
            keep = self.drop_path(tokens[s].map)
            mixed = tokens.pop(s).plus(branches.pop(s), keep)
            out.extend(self.feed[s](*mixed, self.mlp))
        return tuple(out)

    def _attend(
        self,
        tokens: dict[str, Tokens],
        encodings: dict[str, Optional[nn.Module]],
    ) -> dict[str, Tokens]:
        """Attention in each scale, then the sum over resized scales."""
        branches = {}
        for s in self.scales:
            normed = self.norm1[s](*tokens[s])
            branches[s] = Tokens(*self.attention[s](*normed, encodings[s]))
        if not self.is_mixed:
            return branches
        mixed = {}
        for s in self.outputs:
            mixed[s], size = branches[s], branches[s].map.shape[2:]
            for other in OTHERS[s]:
                mixed[s] = mixed[s].plus(_resize(branches[other], size))
        return mixed

    def _attend_across(
        self,
        tokens: dict[str, Tokens],
        encodings: dict[str, Optional[nn.Module]],
    ) -> dict[str, Tokens]:
        """Attention of each scale to the resized keys and values of all."""
        projected, sizes, branches = {}, {}, {}
        for s in self.scales:
            normed = join(*self.norm1[s](*tokens[s]))
            projected[s] = self.attention[s].qkv(normed).chunk(3, dim=2)
            sizes[s] = tokens[s].map.shape[2:]
        for s in self.outputs:
            sources = [projected[s]]
            for other in OTHERS[s]:
                k, v = (
                    join(*_resize(Tokens(*split(t, sizes[other])), sizes[s]))
                    for t in projected[other][1:]
                )
                sources.append((projected[s][0], k, v))
            attended = self.attention[s](sources, sizes[s], encodings[s])
            branches[s] = Tokens(*attended)
        return branches


@register(MODELS)
class CoaT(ContextBackbone):
    """Co-scale conv-attentional image transformer.

    Four stages of serial blocks, each with a class token of its own; CoaT
    (not CoaT-Lite) adds a group of parallel blocks, in which the last three
    scales exchange their features.

    Source: `Co-Scale Conv-Attentional Image Transformers
    <https://arxiv.org/abs/2104.06399>`_, Sec. 3 and 4, Table 1; released
    code: https://github.com/mlpc-ucsd/CoaT.

    Args:
        arch (str or dict): 'lite_tiny', 'lite_mini', 'lite_small',
            'lite_medium', 'tiny', 'mini' or 'small' as published, or a dict
            with ``embed_dims``, ``serial_depths`` and ``mlp_ratios`` (four
            values each) and, optionally, ``parallel_depth`` (0). Defaults to
            'lite_small'.
        position_encoding (bool): Convolutional position encoding at the
            start of every block (Table 6). Defaults to True.
        relative_position_encoding (bool): Convolutional relative position
            encoding in the attention (Table 6). Defaults to True.
        co_scale (str): How the scales of parallel blocks exchange features
            (Table 7): 'interpolation' adds resized features, 'none' adds
            nothing, 'cross_attention' also attends to the resized keys and
            values of the other scales. Defaults to 'interpolation'.
        with_cls_token (bool): For a classifier: class tokens follow the
            feature maps, see :class:`TokenMaps`. ``out_indices`` must hold
            the last stage. Defaults to False.
        norm_cfg (dict, optional): Layer norms. Defaults to
            ``dict(type='LN', eps=1e-6)``, with PyTorch's ``eps`` in the
            patch embeddings.
        drop_path_rate (float): Stochastic depth, the same for every block.
            Defaults to 0.
        **kwargs: See :class:`ContextBackbone`. The parallel blocks are frozen
            with the last stage.

    Raises:
        ValueError: An argument is invalid.

    Example:
        >>> maps = CoaT('lite_small')(torch.rand(2, 3, 224, 224))
        >>> [tuple(m.shape) for m in maps]
        [(2, 64, 56, 56), (2, 128, 28, 28), (2, 320, 14, 14), (2, 512, 7, 7)]
    """

    key_map = staticmethod(keys.key_map)
    default_norm = dict(type='LN', eps=1e-6)
    arch_settings = {
        name: dict(zip(_ARCH_KEYS, values))
        for name, *values in (
            # embed_dims, serial_depths, mlp_ratios, parallel_depth
            ('lite_tiny', (64, 128, 256, 320), (2, 2, 2, 2), (8, 8, 4, 4), 0),
            ('lite_mini', (64, 128, 320, 512), (2, 2, 2, 2), (8, 8, 4, 4), 0),
            ('lite_small', (64, 128, 320, 512), (3, 4, 6, 3), (8, 8, 4, 4), 0),
            ('lite_medium', (128, 256, 320, 512), (3, 6, 10, 8), (4,) * 4, 0),
            ('tiny', (152, 152, 152, 152), (2, 2, 2, 2), (4, 4, 4, 4), 6),
            ('mini', (152, 216, 216, 216), (2, 2, 2, 2), (4, 4, 4, 4), 6),
            ('small', (152, 320, 320, 320), (2, 2, 2, 2), (4, 4, 4, 4), 6),
        )
    }

    _run = Stage._run

    def __init__(
        self,
        arch: Union[str, dict] = 'lite_small',
        position_encoding: bool = True,
        relative_position_encoding: bool = True,
        co_scale: str = 'interpolation',
        with_cls_token: bool = False,
        drop_path_rate: float = 0.0,
        **kwargs: Any,
    ) -> None:
        arch = self._resolve_arch(
            arch,
            _ARCH_KEYS[:3],
            depths='serial_depths',
            parallel_depth=0,
        )
        for key in ('embed_dims', 'mlp_ratios'):
            if arch['parallel_depth'] and len({*arch[key][1:]}) > 1:
                raise ValueError(
                    f'Parallel blocks need equal {key} in the last three '
                    f'stages, got {arch[key]}. Change them, or set '
                    'parallel_depth to 0.'
                )
        super().__init__(arch['embed_dims'], **kwargs)
        if co_scale not in CO_SCALES:
            raise ValueError(
                f'co_scale must be one of {CO_SCALES}, got {co_scale!r}.'
            )
        if with_cls_token and self.out_indices[-1] != NUM_STAGES - 1:
            raise ValueError(
                'with_cls_token needs the last stage among out_indices, got '
                f'{self.out_indices!r}.'
            )
        self.with_cls_token = with_cls_token
        self._choose_scales(arch, co_scale)
        in_channels = (self.in_channels, *arch['embed_dims'])
        for i in range(self.num_stages):
            embedding = PatchEmbedding(
                in_channels[i],
                arch['embed_dims'][i],
                STRIDES[0] if i == 0 else 2,
                {**self.norm_cfg, 'eps': 1e-5},
                *self._entry(i),
            )
            if i == 0:
                self.stem, embedding = embedding, nn.Identity()
            stage = CoaTStage(
                embedding,
                arch['embed_dims'][i],
                self._make_serial_blocks(arch, i, drop_path_rate),
                position_encoding,
                relative_position_encoding,
                self.with_cp,
                self.dilations[i],
            )
            self.stages.append(stage)
        self._make_parallel_part(arch, co_scale, drop_path_rate)
        self._finish_init()

    def _choose_scales(self, arch: dict, co_scale: str) -> None:
        """Stages that run in parallel, and those whose results are used."""
        all_scales = (
            list(range(1, NUM_STAGES)) if arch['parallel_depth'] else []
        )
        outputs = [
            i
            for i in all_scales
            if i in self.out_indices or self.with_cls_token
        ]
        scales = outputs if co_scale == 'none' or not outputs else all_scales
        self.scales, self.parallel_outputs = scales, outputs
        if scales:
            self.num_stages = max(scales) + 1

    def _make_serial_blocks(
        self, arch: dict, stage: int, drop_path: float
    ) -> Iterable[SerialBlock]:
        for _ in range(arch['serial_depths'][stage]):
            yield SerialBlock(
                arch['embed_dims'][stage],
                arch['mlp_ratios'][stage],
                self.norm_cfg,
                drop_path,
            )

    def _make_parallel_part(
        self, arch: dict, co_scale: str, drop_path: float
    ) -> None:
        # Scales are named as in the paper, from 1.
        scales = [str(i + 1) for i in self.scales]
        outputs = [str(i + 1) for i in self.parallel_outputs]
        depth = arch['parallel_depth'] if scales else 0
        self.parallel = nn.ModuleList(
            ParallelBlock(
                arch['embed_dims'][-1],
                arch['mlp_ratios'][-1],
                self.norm_cfg,
                drop_path,
                co_scale,
                scales,
                outputs if i == depth - 1 else scales,
            )
            for i in range(depth)
        )

    def _reset_parameters(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
            elif isinstance(module, CoaTStage):
                nn.init.trunc_normal_(module.cls_token, std=0.02)

    def _freeze_stages(self) -> None:
        super()._freeze_stages()
        if self.frozen_stages == NUM_STAGES:
            self.parallel.eval()
            self.parallel.requires_grad_(False)

    def unbuilt_keys(self) -> tuple[str, ...]:
        return (*super().unbuilt_keys(), 'parallel.')

    def _forward_maps(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.stem(x)
        tokens = []
        for stage in self.stages:
            x, token = stage(x)
            tokens.append((x, token))
        parallel = []
        for i in self.scales:
            parallel.extend(tokens[i])
            if hasattr(self.stages[i], 'unshard'):
                # FSDP2: the parallel blocks call the stage's encodings.
                self.stages[i].unshard()
        for block in self.parallel:
            parallel = self._run(block, *parallel, self.stages)
        for k, i in enumerate(self.parallel_outputs):
            tokens[i] = parallel[2 * k : 2 * k + 2]
        out = []
        for i in self.out_indices:
            out.append(tokens[i][0].contiguous())
        if not self.with_cls_token:
            return tuple(out)
        for i in self.parallel_outputs or self.out_indices[-1:]:
            out.append(tokens[i][1].squeeze(1))
        return TokenMaps(out)

    def get_layer_depth(
        self, param_name: str, prefix: str = ''
    ) -> tuple[int, int]:
        """As in :class:`ContextBackbone`.

        Modules that the blocks of a stage share belong to its first block; the
        parallel blocks follow the serial ones.
        """
        depths = [len(stage.blocks) for stage in self.stages]
        num_layers = sum(depths) + len(self.parallel) + 2
        if not param_name.startswith(prefix):
            return num_layers - 1, num_layers
        parts = param_name[len(prefix) :].split('.')
        if parts[0] == 'parallel':
            return 1 + sum(depths) + int(parts[1]), num_layers
        if parts[0] != 'stages':
            return 0, num_layers
        stage = int(parts[1])
        block = int(parts[3]) if parts[2] == 'blocks' else 0
        return 1 + sum(depths[:stage]) + block, num_layers
