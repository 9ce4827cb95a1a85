"""CoaT and CoaT-Lite."""

from collections.abc import Iterable, Sequence
from typing import Optional, Union

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmengine.registry import MODELS
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mmctx.models.backbones.base import NUM_STAGES, STRIDES, ContextBackbone
from mmctx.models.layers import (
    ConvAttention,
    ConvPositionEncoding,
    ConvRelativePositionEncoding,
)
from mmctx.models.layers.conv_attention import Projected
from mmctx.models.layers.patch_embedding import PatchEmbedding, TokenNorm
from mmctx.models.layers.tokens import (
    SLICE,
    TokenMLP,
    residual,
    runs_in_slices,
)
from mmctx.registry import register
from mmctx.weights.keys import coat as keys

CO_SCALES = ('interpolation', 'none', 'cross_attention')


#: A map (N, C, H, W), None where nothing needs it, and its class token
#: (N, 1, C).
Tokens = tuple[Optional[Tensor], Tensor]


class TokenMaps(tuple):
    """The maps of a backbone, and the class tokens beside them.

    A tuple of one map (N, C, H, W) per out index, as every backbone returns,
    or empty if only the tokens are wanted.

    Attributes:
        cls_tokens (tuple[Tensor]): Class tokens (N, C): that of the last
            stage, or those of the stages of a parallel group.
    """

    def __new__(
        cls, maps: Iterable[Tensor], cls_tokens: Iterable[Tensor]
    ) -> 'TokenMaps':
        self = super().__new__(cls, maps)
        self.cls_tokens = tuple(cls_tokens)
        return self


class TokenDropPath(nn.Module):
    """Stochastic depth: drops the branch of a whole image.

    Args:
        rate (float): Probability of dropping.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Optional[Tensor], token: Tensor) -> Tokens:
        """(N, C, H, W), or None, and (N, 1, C) to the same."""
        if not self.training or self.rate == 0:
            return x, token
        keep = 1 - self.rate
        mask = token.new_empty(len(token), 1, 1, 1).bernoulli_(keep) / keep
        return x if x is None else x * mask, token * mask.squeeze(3)


def _add(tokens: Tokens, branch: Tokens) -> Tokens:
    """The residual sum, without a map where the branch has none."""
    x, token = branch
    x = x if x is None else residual(tokens[0], x)
    return x, residual(tokens[1], token)


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
        self.drop_path = TokenDropPath(drop_path)

    def forward(
        self, x: Optional[Tensor], token: Tensor, mlp: TokenMLP
    ) -> Tokens:
        """(N, C, H, W), channels last, or None, and (N, 1, C) to the same.

        Without gradients ``x`` may be overwritten.
        """
        if x is not None and runs_in_slices(self, x):
            # Hidden channels then stay in the cache.
            rows = x.permute(0, 2, 3, 1).view(-1, x.shape[1])
            slices = -(-len(rows) // (SLICE * torch.get_num_threads()))
            for part in (*rows.chunk(slices), token):
                part += mlp(self.norm(part))
            return x, token
        branch = x
        if x is not None:
            branch = mlp(self.norm(x.permute(0, 2, 3, 1)))
            branch = branch.permute(0, 3, 1, 2)
        branch = self.drop_path(branch, mlp(self.norm(token)))
        return _add((x, token), branch)


class SerialBlock(nn.Module):
    """Conv-attention and an MLP at one scale.

    Args:
        channels (int): Channels C.
        num_heads (int): Heads of the attention.
        mlp_ratio (float): Hidden channels of the MLP per channel.
        norm_cfg (dict): A norm over the last dimension.
        drop_path (float): Probability of dropping a branch.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        mlp_ratio: float,
        norm_cfg: dict,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.norm1 = TokenNorm(channels, norm_cfg)
        self.attention = ConvAttention(channels, num_heads)
        self.drop_path = TokenDropPath(drop_path)
        self.feed = FeedForward(channels, norm_cfg, drop_path)
        self.mlp = TokenMLP(channels, int(channels * mlp_ratio))

    def forward(
        self,
        x: Tensor,
        token: Tensor,
        position_encoding: nn.Module,
        relative_encoding: Optional[nn.Module],
        with_map: bool = True,
    ) -> Tokens:
        """(N, C, H, W) and (N, 1, C) to the same, without a map if wanted."""
        tokens = (position_encoding(x), token)
        branch = self.attention(
            *self.norm1(*tokens), relative_encoding, with_map
        )
        tokens = _add(tokens, self.drop_path(*branch))
        return self.feed(*tokens, self.mlp)


class Stage(nn.Module):
    """The serial blocks of a scale and what they share.

    Args:
        embedding (nn.Module): Makes the stage's map of the previous one's.
        channels (int): Channels C.
        blocks (Iterable[SerialBlock]): The blocks.
        position_encoding (bool): Build the encoding that starts each block.
        relative_encoding (nn.Module, optional): That of the attention.
    """

    def __init__(
        self,
        embedding: nn.Module,
        channels: int,
        blocks: Iterable[SerialBlock],
        position_encoding: bool,
        relative_encoding: Optional[nn.Module],
    ) -> None:
        super().__init__()
        self.embedding = embedding
        self.cls_token = nn.Parameter(torch.zeros(1, 1, channels))
        self.position_encoding = (
            ConvPositionEncoding(channels)
            if position_encoding
            else nn.Identity()
        )
        self.relative_encoding = relative_encoding
        self.blocks = nn.ModuleList(blocks)


def _resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear and without antialiasing, as released."""
    return F.interpolate(x, size, mode='bilinear', align_corners=False)


class ParallelBlock(nn.Module):
    """Conv-attention at several scales that exchange what they find.

    Args:
        channels (int): Channels C of every scale.
        num_heads (int): Heads of the attention.
        mlp_ratio (float): Hidden channels of the MLP per channel.
        norm_cfg (dict): A norm over the last dimension.
        drop_path (float): Probability of dropping a branch.
        co_scale (str): How scales exchange, see :class:`CoaT`.
        scales (Sequence[str]): Names of the scales.
        wanted (Sequence[str]): Those to return: parts that serve only the
            others are not built.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        mlp_ratio: float,
        norm_cfg: dict,
        drop_path: float,
        co_scale: str,
        scales: Sequence[str],
        wanted: Sequence[str],
    ) -> None:
        super().__init__()
        self.co_scale = co_scale
        self.wanted = tuple(wanted)
        self.norm1 = nn.ModuleDict(
            {s: TokenNorm(channels, norm_cfg) for s in scales}
        )
        self.attention = nn.ModuleDict(
            {s: ConvAttention(channels, num_heads) for s in scales}
        )
        self.drop_path = TokenDropPath(drop_path)
        self.feed = nn.ModuleDict(
            {s: FeedForward(channels, norm_cfg, drop_path) for s in wanted}
        )
        self.mlp = TokenMLP(channels, int(channels * mlp_ratio))
        if co_scale == 'cross_attention':
            for scale in set(scales) - set(wanted):
                # Only its keys and values are used.
                self.attention[scale].proj = nn.Identity()

    def forward(
        self,
        tokens: dict[str, Tokens],
        position_encodings: dict[str, nn.Module],
        relative_encodings: dict[str, Optional[nn.Module]],
        with_maps: bool = True,
    ) -> dict[str, Tokens]:
        """A map (N, C, H, W) and a token (N, 1, C) per scale, to the same.

        Without maps if wanted.
        """
        tokens = {
            s: (position_encodings[s](x), token)
            for s, (x, token) in tokens.items()
        }
        normed = {s: self.norm1[s](*tokens[s]) for s in tokens}
        exchange = (
            self._attend_across
            if self.co_scale == 'cross_attention'
            else self._attend_and_mix
        )
        branches = exchange(normed, relative_encodings, with_maps)
        out = {}
        for s in self.wanted:
            mixed = _add(tokens[s], self.drop_path(*branches[s]))
            out[s] = self.feed[s](*mixed, self.mlp)
        return out

    def _attend_and_mix(
        self,
        normed: dict[str, Tokens],
        encodings: dict[str, Optional[nn.Module]],
        with_maps: bool,
    ) -> dict[str, Tokens]:
        """Attention in each scale, then the sum over resized scales."""
        found = {
            s: self.attention[s](*normed[s], encodings[s], with_maps)
            for s in normed
        }
        if self.co_scale == 'none':
            return found
        mixed = {}
        for s in self.wanted:
            x, token = found[s]
            for other in self._others(s, found):
                if with_maps:
                    x = residual(x, _resize(found[other][0], x.shape[2:]))
                token = token + found[other][1]
            mixed[s] = x, token
        return mixed

    def _attend_across(
        self,
        normed: dict[str, Tokens],
        encodings: dict[str, Optional[nn.Module]],
        with_maps: bool,
    ) -> dict[str, Tokens]:
        """Attention of each scale to the resized keys and values of all."""
        found = {s: self.attention[s].project(*normed[s]) for s in normed}
        attended = {}
        for s in self.wanted:
            attention, (q, k, v) = self.attention[s], found[s]
            size = v.map.shape[2:]
            x, token = attention.attend(q, k, v, encodings[s])
            for other in self._others(s, found):
                k, v = (
                    Projected(_resize(p.map, size), p.token)
                    for p in found[other][1:]
                )
                more = attention.attend(q, k, v, encodings[s])
                x = x + more.map
                token = token + more.token
            x, token = attention.merge(Projected(x, token))
            attended[s] = x if with_maps else None, token
        return attended

    @staticmethod
    def _others(scale: str, scales: Iterable[str]) -> list[str]:
        """The other scales, in the order in which the release adds them."""
        order = {'2': '34', '3': '42', '4': '32'}
        return [s for s in order[scale] if s in scales]


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
            numbers each) and, optionally, ``parallel_depth`` (0),
            ``num_heads`` (8) and ``windows`` (heads for each window of the
            relative encoding, ``{3: 2, 5: 3, 7: 3}``). Defaults to
            'lite_small'.
        position_encoding (bool): Convolutional position encoding at the
            start of every block (Table 6). Defaults to True.
        relative_position_encoding (bool): Convolutional relative position
            encoding in the attention (Table 6). Defaults to True.
        co_scale (str): How the scales of the parallel blocks exchange
            (Table 7): 'interpolation' adds resized features, 'none' adds
            nothing, 'cross_attention' attends to the resized keys and
            values of the other scales, too. Defaults to 'interpolation'.
        with_cls_token (bool): For a classifier: the returned tuple of maps
            also carries the class tokens, as its attribute ``cls_tokens``
            (see :class:`TokenMaps`). ``out_indices`` must hold the last
            stage. Defaults to False.
        norm_cfg (dict, optional): Layer norms. Defaults to
            ``dict(type='LN', eps=1e-6)``, with PyTorch's ``eps`` in the
            patch embeddings.
        drop_path_rate (float): Stochastic depth, the same for every block.
            Defaults to 0.
        in_channels, out_indices, frozen_stages, with_cp, init_cfg: See
            :class:`ContextBackbone`. The parallel blocks are frozen with the
            last stage.
        norm_eval (bool): As in every backbone; layer norm has no statistics
            to keep.

    Raises:
        ValueError: An argument is not one of the above.

    Example:
        >>> maps = CoaT('lite_small')(torch.rand(2, 3, 224, 224))
        >>> [tuple(m.shape) for m in maps]
        [(2, 64, 56, 56), (2, 128, 28, 28), (2, 320, 14, 14), (2, 512, 7, 7)]
    """

    key_map = staticmethod(keys.key_map)
    arch_settings = {
        'lite_tiny': dict(
            embed_dims=(64, 128, 256, 320),
            serial_depths=(2, 2, 2, 2),
            mlp_ratios=(8, 8, 4, 4),
        ),
        'lite_mini': dict(
            embed_dims=(64, 128, 320, 512),
            serial_depths=(2, 2, 2, 2),
            mlp_ratios=(8, 8, 4, 4),
        ),
        'lite_small': dict(
            embed_dims=(64, 128, 320, 512),
            serial_depths=(3, 4, 6, 3),
            mlp_ratios=(8, 8, 4, 4),
        ),
        'lite_medium': dict(
            embed_dims=(128, 256, 320, 512),
            serial_depths=(3, 6, 10, 8),
            mlp_ratios=(4, 4, 4, 4),
        ),
        'tiny': dict(
            embed_dims=(152, 152, 152, 152),
            serial_depths=(2, 2, 2, 2),
            mlp_ratios=(4, 4, 4, 4),
            parallel_depth=6,
        ),
        'mini': dict(
            embed_dims=(152, 216, 216, 216),
            serial_depths=(2, 2, 2, 2),
            mlp_ratios=(4, 4, 4, 4),
            parallel_depth=6,
        ),
        'small': dict(
            embed_dims=(152, 320, 320, 320),
            serial_depths=(2, 2, 2, 2),
            mlp_ratios=(4, 4, 4, 4),
            parallel_depth=6,
        ),
    }

    def __init__(
        self,
        arch: Union[str, dict] = 'lite_small',
        in_channels: int = 3,
        position_encoding: bool = True,
        relative_position_encoding: bool = True,
        co_scale: str = 'interpolation',
        with_cls_token: bool = False,
        out_indices: Union[int, Sequence[int]] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        norm_cfg: Optional[dict] = None,
        with_cp: bool = False,
        drop_path_rate: float = 0.0,
        init_cfg: Optional[Union[dict, list]] = None,
    ) -> None:
        arch = self._resolve_arch(arch)
        super().__init__(
            arch['embed_dims'],
            in_channels=in_channels,
            out_indices=out_indices,
            frozen_stages=frozen_stages,
            norm_eval=norm_eval,
            with_cp=with_cp,
            init_cfg=init_cfg,
        )
        if co_scale not in CO_SCALES:
            raise ValueError(
                f'co_scale must be one of {CO_SCALES}, got {co_scale!r}.'
            )
        if with_cls_token and self.out_indices[-1] != NUM_STAGES - 1:
            raise ValueError(
                'with_cls_token needs the last stage among out_indices, got '
                f'{out_indices!r}.'
            )
        self.with_cls_token = with_cls_token
        self.norm_cfg = self._resolve_norm_cfg(norm_cfg)
        scales, wanted = self._parallel_scales(arch, co_scale)
        if scales:
            self.num_stages = max(scales) + 1
        self._make_serial_part(
            arch,
            position_encoding,
            relative_position_encoding,
            drop_path_rate,
        )
        self._make_parallel_part(
            arch, co_scale, scales, wanted, drop_path_rate
        )
        self._finish_init()

    def _resolve_arch(self, arch: Union[str, dict]) -> dict:
        given = self.arch_settings.get(arch) if isinstance(arch, str) else arch
        lists = ('embed_dims', 'serial_depths', 'mlp_ratios')
        options = dict(parallel_depth=0, num_heads=8, windows=None)
        if (
            not isinstance(given, dict)
            or not set(lists) <= set(given) <= {*lists, *options}
            or any(len(given[key]) != NUM_STAGES for key in lists)
        ):
            raise ValueError(
                f'CoaT arch must be one of {list(self.arch_settings)}, or a '
                f'dict with four numbers in each of {lists} and, optionally, '
                f'any of {tuple(options)}, got {arch!r}.'
            )
        resolved = {**options, **given}
        if any(d < 1 for d in resolved['serial_depths']):
            raise ValueError(
                'CoaT serial_depths must be positive, got '
                f'{resolved["serial_depths"]}.'
            )
        for key in ('embed_dims', 'mlp_ratios'):
            if resolved['parallel_depth'] and len({*resolved[key][1:]}) > 1:
                raise ValueError(
                    f'Parallel blocks need equal {key} in the last three '
                    f'stages, got {resolved[key]}. Change them, or set '
                    'parallel_depth to 0.'
                )
        return resolved

    @staticmethod
    def _resolve_norm_cfg(norm_cfg: Optional[dict]) -> dict:
        norm_cfg = norm_cfg or dict(type='LN', eps=1e-6)
        if norm_cfg.get('type') != 'LN':
            raise ValueError(
                'CoaT normalises each token over its channels: norm_cfg must '
                f"be dict(type='LN', ...), got {norm_cfg!r}."
            )
        return norm_cfg

    def _parallel_scales(
        self, arch: dict, co_scale: str
    ) -> tuple[list[int], list[int]]:
        """Stages that run in parallel, and those whose result is used."""
        if not arch['parallel_depth']:
            return [], []
        all_scales = list(range(1, NUM_STAGES))
        wanted = [i for i in all_scales if i in self.out_indices]
        if self.with_cls_token:
            wanted = all_scales
        if not wanted:
            return [], []
        return (wanted if co_scale == 'none' else all_scales), wanted

    def _make_serial_part(
        self,
        arch: dict,
        position_encoding: bool,
        relative_position_encoding: bool,
        drop_path: float,
    ) -> None:
        in_channels = self.in_channels
        heads = arch['num_heads']
        embedding_norm = {**self.norm_cfg, 'eps': 1e-5}
        for i in range(self.num_stages):
            channels = arch['embed_dims'][i]
            embedding = PatchEmbedding(
                in_channels,
                channels,
                STRIDES[0] if i == 0 else 2,
                embedding_norm,
            )
            if i == 0:
                self.stem, embedding = embedding, nn.Identity()
            blocks = [
                SerialBlock(
                    channels,
                    heads,
                    arch['mlp_ratios'][i],
                    self.norm_cfg,
                    drop_path,
                )
                for _ in range(arch['serial_depths'][i])
            ]
            relative = (
                ConvRelativePositionEncoding(channels, heads, arch['windows'])
                if relative_position_encoding
                else None
            )
            self.stages.append(
                Stage(embedding, channels, blocks, position_encoding, relative)
            )
            in_channels = channels

    def _make_parallel_part(
        self,
        arch: dict,
        co_scale: str,
        scales: list[int],
        wanted: list[int],
        drop_path: float,
    ) -> None:
        # Scales are named as in the paper, from 1.
        self.scales = [str(i + 1) for i in scales]
        wanted = [str(i + 1) for i in wanted]
        depth = arch['parallel_depth'] if scales else 0
        self.parallel = nn.ModuleList(
            ParallelBlock(
                arch['embed_dims'][-1],
                arch['num_heads'],
                arch['mlp_ratios'][-1],
                self.norm_cfg,
                drop_path,
                co_scale,
                self.scales,
                wanted if i == depth - 1 else self.scales,
            )
            for i in range(depth)
        )

    def _reset_parameters(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
            elif isinstance(module, Stage):
                nn.init.trunc_normal_(module.cls_token, std=0.02)

    def _freeze_stages(self) -> None:
        super()._freeze_stages()
        if self.frozen_stages == NUM_STAGES:
            self.parallel.eval()
            self.parallel.requires_grad_(False)

    def unbuilt_keys(self) -> tuple[str, ...]:
        return (*super().unbuilt_keys(), 'parallel.')

    def forward(self, x: Tensor, with_maps: bool = True) -> tuple[Tensor, ...]:
        """As in :class:`ContextBackbone`.

        Args:
            x (Tensor): Normalised images (N, C, H, W).
            with_maps (bool): Without, the last block computes nothing for
                pixels, and of :class:`TokenMaps` there are the class tokens
                only. Defaults to True.

        Raises:
            ValueError: Neither maps nor class tokens are wanted.
        """
        if not (with_maps or self.with_cls_token):
            raise ValueError(
                'with_maps=False leaves class tokens only: build CoaT with '
                'with_cls_token=True.'
            )
        return super().forward(x, with_maps=with_maps)

    def _forward_maps(self, x: Tensor, with_maps: bool) -> tuple[Tensor, ...]:
        last = (self.parallel or self.stages[-1].blocks)[-1]
        x = self.stem(x)
        found = {}
        for i, stage in enumerate(self.stages):
            x = stage.embedding(x)
            token = stage.cls_token.repeat(x.shape[0], 1, 1)
            for block in stage.blocks:
                x, token = self._run(
                    block,
                    x,
                    token,
                    stage.position_encoding,
                    stage.relative_encoding,
                    with_maps or block is not last,
                )
            found[str(i + 1)] = x, token
        found.update(self._forward_parallel(found, with_maps))
        names = [str(i + 1) for i in self.out_indices] if with_maps else []
        maps = [found[s][0].contiguous() for s in names]
        if not self.with_cls_token:
            return tuple(maps)
        sources = self.scales or [str(NUM_STAGES)]
        return TokenMaps(maps, [found[s][1].squeeze(1) for s in sources])

    def _forward_parallel(
        self, found: dict[str, Tokens], with_maps: bool
    ) -> dict[str, Tokens]:
        stages = {s: self.stages[int(s) - 1] for s in self.scales}
        position = {s: m.position_encoding for s, m in stages.items()}
        relative = {s: m.relative_encoding for s, m in stages.items()}
        tokens = {s: found[s] for s in self.scales}
        for block in self.parallel:
            needed = with_maps or block is not self.parallel[-1]
            tokens = self._run(block, tokens, position, relative, needed)
        return tokens

    def _run(self, block: nn.Module, *args):
        if self.with_cp and torch.is_grad_enabled():
            return checkpoint(block, *args, use_reentrant=False)
        return block(*args)

    def get_layer_depth(
        self, param_name: str, prefix: str = ''
    ) -> tuple[int, int]:
        """As in :class:`ContextBackbone`.

        What the blocks of a stage share belongs to its first block; the
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
