"""Container, Container-Light, and the networks they are compared with."""

import math
from collections.abc import Sequence
from typing import Any, Optional, Union

import torch
import torch.nn as nn
from mmcv.cnn import build_norm_layer
from mmcv.cnn.bricks import DropPath
from mmengine.registry import MODELS
from torch import Tensor

from mmctx.models.backbones.base import NUM_STAGES, STRIDES, ContextBackbone
from mmctx.models.layers import ContextAggregation, ConvPositionEncoding
from mmctx.models.layers.folding import fold_norm
from mmctx.models.layers.patch_embedding import PatchEmbedding
from mmctx.models.layers.tokens import residual, runs_in_slices
from mmctx.ops import linear
from mmctx.registry import register
from mmctx.weights.keys import container as keys

#: Pixels per thread that an MLP takes at a time in evaluation on a CPU.
SLICE = 1024

#: Heads of 32 channels each.
HEADS = (2, 4, 10, 16)

#: Arguments of ContextAggregation that an arch may hold.
AGGREGATION = (
    'num_heads',
    'dynamic',
    'static',
    'static_heads',
    'kernel_size',
    'rank',
    'mixing',
)


class FeedForward(nn.Module):
    """Residual branch of a norm and an MLP of two 1 x 1 convolutions.

    Args:
        channels (int): Channels C.
        ratio (float): Hidden channels per channel.
        norm_cfg (dict): A norm of maps.
        drop_path (nn.Module): Drops the branch.
    """

    def __init__(
        self,
        channels: int,
        ratio: float,
        norm_cfg: dict,
        drop_path: nn.Module,
    ) -> None:
        super().__init__()
        hidden = int(channels * ratio)
        self.norm = build_norm_layer(norm_cfg, channels)[1]
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.fc2 = nn.Conv2d(hidden, channels, 1)
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W), channels last, to the same.

        Without gradients ``x`` may be overwritten.
        """
        normed, weight, bias = fold_norm(self.norm, x, self.fc1)
        weight = weight.flatten(1)
        if normed is x and runs_in_slices(self, x):
            rows = x.permute(0, 2, 3, 1).view(-1, x.shape[1])
            for part in rows.split(SLICE * torch.get_num_threads()):
                part += self._mlp(part, weight, bias)
            return x
        branch = self._mlp(normed.permute(0, 2, 3, 1), weight, bias)
        return residual(x, self.drop_path(branch.permute(0, 3, 1, 2)))

    def _mlp(self, rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """The convolutions as products of matrices, on (..., C)."""
        hidden = linear(rows, weight, bias, gelu=True)
        return linear(hidden, self.fc2.weight.flatten(1), self.fc2.bias)


class ContainerBlock(nn.Module):
    """Position encoding, context aggregation and an MLP, each residual.

    Args:
        embedding (nn.Module): What precedes the block: the patch embedding
            of its stage, or nothing.
        channels (int): Channels C.
        mlp_ratio (float): Hidden channels of the MLP per channel.
        norm_cfg (dict): A norm of maps.
        drop_path (float): Probability of dropping a branch.
        **aggregation: See :class:`ContextAggregation`.
    """

    def __init__(
        self,
        embedding: nn.Module,
        channels: int,
        mlp_ratio: float,
        norm_cfg: dict,
        drop_path: float,
        **aggregation: Any,
    ) -> None:
        super().__init__()
        self.embedding = embedding
        self.position_encoding = ConvPositionEncoding(channels)
        self.aggregation = ContextAggregation(
            channels,
            norm=build_norm_layer(norm_cfg, channels)[1],
            **aggregation,
        )
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.feed = FeedForward(channels, mlp_ratio, norm_cfg, self.drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W), channels last, to the same."""
        x = self.position_encoding(self.embedding(x))
        x = residual(x, self.drop_path(self.aggregation(x)))
        return self.feed(x)


def _arch(
    mlp_ratios: Sequence[float] = (4, 4, 4, 4), **aggregation: Any
) -> dict:
    return dict(
        embed_dims=(64, 128, 320, 512),
        depths=(3, 4, 8, 3),
        mlp_ratios=mlp_ratios,
        aggregation=aggregation,
    )


_LAST_DYNAMIC = ('none', 'none', 'none', 'attention')


@register(MODELS)
class Container(ContextBackbone):
    """Context aggregation network.

    Four stages of blocks that aggregate context with a static affinity, a
    dynamic one, or both: :class:`ContextAggregation`.

    ==============  ====================================================
    arch            network
    ==============  ====================================================
    'light'         Container-Light as released
    'light_paper'   Container-Light with the MLPs that its published size
                    implies (ratio 4 throughout)
    'full'          Container: attention and convolution in every stage
    'h_deit_small'  attention alone
    'conv3', 'group_conv3'
                    dense 3 x 3 convolution, in 1 or 8 groups
    'dw3', 'mh_dw3' 3 x 3 kernel per channel, or per head of 32 channels
    'mlp', 'mlp_lr', 'mh_mlp_lr'
                    transposed MLP: a table over pixels; of low rank; one
                    of low rank per head
    'pam'           attention and a transposed MLP
    ==============  ====================================================

    Only 'light' was released. The others are the rows of Tables 1 and 2 on
    its skeleton, with MLPs of ratio 4: so their parameters come within 2 %
    of the published numbers (the text's widths and depths do not fit these).
    The ranks of 'mlp_lr' and 'mh_mlp_lr' are not published; those here are
    chosen for the published numbers of parameters.

    Source: `Container: Context Aggregation Network
    <https://arxiv.org/abs/2106.01401>`_, Sec. 3.4 and 3.5, Table 2; released
    code (Container-Light alone): https://github.com/allenai/container.

    Args:
        arch (str or dict): One of the above, or a dict with ``embed_dims``,
            ``depths`` and ``mlp_ratios`` (four numbers each) and
            ``aggregation``: arguments of :class:`ContextAggregation`
            (``num_heads``, ``dynamic``, ``static``, ``static_heads``,
            ``kernel_size``, ``rank``, ``mixing``), each one value for all
            stages or four values. Defaults to 'light'.
        aggregation (dict, optional): What to change in the arch's
            ``aggregation``, such as ``dict(mixing='scalars')``.
        table_size (int or Sequence[int]): Height and width of the images to
            which the tables of 'mlp' and 'mlp_lr' belong; on other images
            they are interpolated (:class:`TableAffinity`). Defaults to 224.
        norm_cfg (dict, optional): Norm layers of the blocks; the patch
            embeddings keep their layer norm. Defaults to
            ``dict(type='BN')``.
        drop_path_rate (float): Stochastic depth of the last block; it grows
            linearly from 0 at the first. Defaults to 0.
        in_channels, out_indices, frozen_stages, norm_eval, with_cp,
            init_cfg: See :class:`ContextBackbone`.

    Raises:
        ValueError: An argument is not one of the above.

    Example:
        >>> maps = Container('light')(torch.rand(2, 3, 224, 224))
        >>> [tuple(m.shape) for m in maps]
        [(2, 64, 56, 56), (2, 128, 28, 28), (2, 320, 14, 14), (2, 512, 7, 7)]
    """

    key_map = staticmethod(keys.key_map)
    arch_settings = {
        'light': _arch(
            (8, 8, 4, 4), num_heads=HEADS, dynamic=_LAST_DYNAMIC
        ),
        'light_paper': _arch(num_heads=HEADS, dynamic=_LAST_DYNAMIC),
        'full': _arch(num_heads=HEADS),
        'h_deit_small': _arch(num_heads=HEADS, static='none'),
        'conv3': _arch(dynamic='none', static='dense_conv', kernel_size=3),
        'group_conv3': _arch(
            dynamic='none', static='dense_conv', static_heads=8, kernel_size=3
        ),
        'dw3': _arch(dynamic='none', kernel_size=3),
        'mh_dw3': _arch(dynamic='none', static_heads=HEADS, kernel_size=3),
        'mlp': _arch(dynamic='none', static='mlp'),
        'mlp_lr': _arch(
            dynamic='none', static='mlp_lr', rank=(878, 220, 55, 14)
        ),
        'mh_mlp_lr': _arch(
            dynamic='none', static='mlp_lr', static_heads=HEADS,
            rank=(502, 125, 31, 8),
        ),
        'pam': _arch(num_heads=HEADS, static='mlp'),
    }  # fmt: skip

    def __init__(
        self,
        arch: Union[str, dict] = 'light',
        in_channels: int = 3,
        aggregation: Optional[dict] = None,
        table_size: Union[int, Sequence[int]] = 224,
        out_indices: Union[int, Sequence[int]] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        norm_cfg: Optional[dict] = None,
        with_cp: bool = False,
        drop_path_rate: float = 0.0,
        init_cfg: Optional[Union[dict, list]] = None,
    ) -> None:
        arch = self._resolve_arch(arch, aggregation or {})
        super().__init__(
            arch['embed_dims'],
            in_channels=in_channels,
            out_indices=out_indices,
            frozen_stages=frozen_stages,
            norm_eval=norm_eval,
            with_cp=with_cp,
            init_cfg=init_cfg,
        )
        self.norm_cfg = self._resolve_norm_cfg(norm_cfg)
        self.table_size = (
            (table_size, table_size)
            if isinstance(table_size, int)
            else tuple(table_size)
        )
        # Stochastic depth is defined over the whole network, built or not.
        last = max(sum(arch['depths']) - 1, 1)
        first = 0
        for i in range(self.num_stages):
            depth = arch['depths'][i]
            rates = [drop_path_rate * (first + j) / last for j in range(depth)]
            self.stages.append(self._make_stage(i, arch, rates))
            first += depth
        self._finish_init()

    def _resolve_arch(self, arch: Union[str, dict], aggregation: dict) -> dict:
        given = self.arch_settings.get(arch) if isinstance(arch, str) else arch
        lists = ('embed_dims', 'depths', 'mlp_ratios')
        if (
            not isinstance(given, dict)
            or set(given) != {*lists, 'aggregation'}
            or any(len(given[key]) != NUM_STAGES for key in lists)
            or any(depth < 1 for depth in given['depths'])
        ):
            raise ValueError(
                f'Container arch must be one of {list(self.arch_settings)}, '
                f'or a dict with four positive numbers in each of {lists} '
                f"and with 'aggregation', got {arch!r}."
            )
        aggregation = {**given['aggregation'], **aggregation}
        if not set(aggregation) <= set(AGGREGATION):
            raise ValueError(
                f'aggregation may hold {AGGREGATION}, got {aggregation!r}.'
            )
        return {**given, 'aggregation': aggregation}

    @staticmethod
    def _resolve_norm_cfg(norm_cfg: Optional[dict]) -> dict:
        norm_cfg = norm_cfg or dict(type='BN')
        if norm_cfg.get('type') == 'LN':
            raise ValueError(
                'Container needs a norm of maps (N, C, H, W), such as '
                f"dict(type='BN') or 'SyncBN' or 'GN', got {norm_cfg!r}."
            )
        return norm_cfg

    def _make_stage(
        self, index: int, arch: dict, drop_paths: Sequence[float]
    ) -> nn.Sequential:
        channels = arch['embed_dims'][index]
        embedding = PatchEmbedding(
            arch['embed_dims'][index - 1] if index else self.in_channels,
            channels,
            2 if index else STRIDES[0],
            dict(type='LN'),
        )
        if index == 0:
            self.stem, embedding = embedding, nn.Identity()
        size = [math.ceil(side / STRIDES[index]) for side in self.table_size]
        aggregation = {
            key: _of_stage(value, index)
            for key, value in arch['aggregation'].items()
        }
        return nn.Sequential(
            *(
                ContainerBlock(
                    nn.Identity() if j else embedding,
                    channels,
                    arch['mlp_ratios'][index],
                    self.norm_cfg,
                    drop_path,
                    size=size,
                    **aggregation,
                )
                for j, drop_path in enumerate(drop_paths)
            )
        )


def _of_stage(value: Any, index: int) -> Any:
    """One of four values, or the one value of all stages."""
    several = isinstance(value, (tuple, list)) and len(value) == NUM_STAGES
    return value[index] if several else value
