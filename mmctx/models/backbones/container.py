"""Container, Container-Light and the networks they are compared with."""

from collections.abc import Sequence
from typing import Any, Optional, Union

import torch.nn as nn
from mmcv.cnn import build_norm_layer
from mmengine.registry import MODELS
from torch import Tensor

from mmctx.models.backbones.base import (
    STRIDES,
    ContextBackbone,
    PatchEmbedding,
    Stage,
    broadcast_to_stages,
    drop_path_rates,
)
from mmctx.models.layers import ContextAggregation, ConvPositionEncoding
from mmctx.models.layers.mlp import ConvMLP
from mmctx.models.layers.stochastic_depth import StochasticDepth
from mmctx.ops import add_conv, add_mlp
from mmctx.registry import register
from mmctx.weights.keys import container as keys

#: Image size for which the tables of 'mlp' and 'mlp_lr' are defined.
TABLE_SIZE = 224

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


class ContainerBlock(nn.Module):
    """Position encoding, context aggregation and an MLP, each residual.

    Args:
        embedding (nn.Module): What precedes the block: the patch embedding
            of its stage, or nothing.
        channels (int): Channels C.
        mlp_ratio (float): Hidden channels of the MLP per channel.
        norm_cfg (dict): A norm of feature maps.
        drop_path (float): Probability of dropping a branch of an image.
        dilation (int): Of position encoding and kernels.
        **aggregation: See :class:`ContextAggregation`.
    """

    def __init__(
        self,
        embedding: nn.Module,
        channels: int,
        mlp_ratio: float,
        norm_cfg: dict,
        drop_path: float,
        dilation: int,
        **aggregation: Any,
    ) -> None:
        super().__init__()
        self.embedding = embedding
        self.position_encoding = ConvPositionEncoding(channels, dilation)
        self.aggregation = ContextAggregation(
            channels,
            norm=build_norm_layer(norm_cfg, channels)[1],
            dilation=dilation,
            **aggregation,
        )
        self.feed = ConvMLP(channels, int(channels * mlp_ratio), norm_cfg)
        self.drop_path = StochasticDepth(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) to (N, C, H', W'), channels last."""
        x = self.position_encoding(self.embedding(x))
        x = add_conv(x, x, self.aggregation, self.drop_path(x))
        return add_mlp(x, self.feed, scale=self.drop_path(x))


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

    Tables are defined for images of 224 x 224 pixels and interpolated for
    others (:class:`TableAffinity`).

    Only 'light' was released. The others are the rows of Tables 1 and 2 on
    its skeleton, with MLPs of ratio 4, which brings their parameters within 2
    % of the published numbers (the text's widths and depths do not). The ranks
    of 'mlp_lr' and 'mh_mlp_lr' are unpublished and chosen to match the
    published numbers of parameters.

    Source: `Container: Context Aggregation Network
    <https://arxiv.org/abs/2106.01401>`_, Sec. 3.4 and 3.5, Table 2; released
    code (Container-Light alone): https://github.com/allenai/container.

    Args:
        arch (str or dict): One of the above, or a dict with ``embed_dims``,
            ``depths`` and ``mlp_ratios`` (four values each) and
            ``aggregation``: arguments of :class:`ContextAggregation`
            (``num_heads``, ``dynamic``, ``static``, ``static_heads``,
            ``kernel_size``, ``rank``, ``mixing``), each a per-stage value,
            broadcast if single. Defaults to 'light'.
        aggregation (dict, optional): What to change in the arch's
            ``aggregation``, such as ``dict(mixing='scalars')``.
        norm_cfg (dict, optional): Norm layers of the blocks; the patch
            embeddings keep their layer norm. Defaults to
            ``dict(type='BN')``.
        drop_path_rate (float): Stochastic depth of the last block; it grows
            linearly from 0 at the first. Defaults to 0.
        half_norms (bool): See :class:`ContextBackbone`. Here it concerns the
            patch embeddings alone, but everything behind them: otherwise
            their output, and each sum with it, is float32 under autocast.
            Defaults to True.
        **kwargs: See :class:`ContextBackbone`.

    Raises:
        ValueError: An argument is invalid.

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
        aggregation: Optional[dict] = None,
        drop_path_rate: float = 0.0,
        half_norms: bool = True,
        **kwargs: Any,
    ) -> None:
        arch = self._resolve_arch(
            arch,
            per_stage=('embed_dims', 'depths', 'mlp_ratios'),
            others=('aggregation',),
        )
        aggregation = {**arch['aggregation'], **(aggregation or {})}
        if not set(aggregation) <= set(AGGREGATION):
            raise ValueError(
                f'aggregation may hold {AGGREGATION}, got {aggregation!r}.'
            )
        super().__init__(arch['embed_dims'], half_norms=half_norms, **kwargs)
        rates = drop_path_rates(drop_path_rate, arch['depths'])
        for i in range(self.num_stages):
            self.stages.append(
                self._make_stage(i, arch, aggregation, rates[i])
            )
        self._finish_init()

    def _make_stage(
        self,
        index: int,
        arch: dict,
        aggregation: dict,
        drop_paths: Sequence[float],
    ) -> Stage:
        channels = arch['embed_dims'][index]
        embedding = PatchEmbedding(
            arch['embed_dims'][index - 1] if index else self.in_channels,
            channels,
            2 if index else STRIDES[0],
            dict(type='LN'),
            *self._entry(index),
        )
        if index == 0:
            self.stem, embedding = embedding, nn.Identity()
        options = {
            key: broadcast_to_stages(value)[index]
            for key, value in aggregation.items()
        }
        blocks = (
            ContainerBlock(
                nn.Identity() if j else embedding,
                channels,
                arch['mlp_ratios'][index],
                self.norm_cfg,
                drop_path,
                self.dilations[index],
                size=(TABLE_SIZE // STRIDES[index],) * 2,
                **options,
            )
            for j, drop_path in enumerate(drop_paths)
        )
        return Stage(*blocks, with_cp=self.with_cp)
