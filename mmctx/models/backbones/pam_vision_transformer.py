"""Container-PAM: a vision transformer with an added static affinity."""

from typing import Any

import torch.nn as nn
from mmpretrain.models.backbones import VisionTransformer
from torch import Tensor

from mmctx.models.layers import ContextAggregation


class PAMAttention(nn.Module):
    """A learned mixture of attention and a transposed MLP over tokens.

    Source: `Container: Context Aggregation Network
    <https://arxiv.org/abs/2106.01401>`_, Sec. 3.3 and 4.1.

    Args:
        channels (int): Channels C.
        num_heads (int): Heads of the attention.
        num_tokens (int): Number of tokens L, a class token included.
        drop_path (nn.Module): Drops the branch.
        **kwargs: ``mixing``, ``rank`` and others of
            :class:`ContextAggregation`.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int,
        num_tokens: int,
        drop_path: nn.Module,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        # Tokens are a feature map of one row: the table needs no grid.
        self.aggregation = ContextAggregation(
            channels,
            num_heads,
            **{'static': 'mlp', 'size': (1, num_tokens), **kwargs},
        )
        self.out_drop = drop_path
        for conv in (
            self.aggregation.project_in,
            self.aggregation.project_out,
        ):
            # As the linear layers of DeiT that they replace.
            nn.init.trunc_normal_(conv.weight, std=0.02)
            nn.init.zeros_(conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, L, C) to the same."""
        out = self.aggregation(x.transpose(1, 2).unsqueeze(2))
        return self.out_drop(out.squeeze(2).transpose(1, 2))


class PAMVisionTransformer(VisionTransformer):
    """mmpretrain's ``VisionTransformer`` with :class:`PAMAttention`.

    The network of Container-PAM is DeiT-S: ``arch='deit-small'``. The tables
    have the size of the number of tokens at ``img_size``. It has
    one feature map and no ``output_stride``: ``patch_size`` is its stride.

    Args:
        *args: See ``VisionTransformer``.
        aggregation (dict, optional): Arguments of
            :class:`ContextAggregation`, such as ``dict(mixing='scalars')``.
        **kwargs: See ``VisionTransformer``.
    """

    def __init__(
        self, *args: Any, aggregation: Any = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        for layer in self.layers:
            layer.attn = PAMAttention(
                self.embed_dims,
                layer.attn.num_heads,
                self.pos_embed.shape[1],
                layer.attn.out_drop,
                **(aggregation or {}),
            )
