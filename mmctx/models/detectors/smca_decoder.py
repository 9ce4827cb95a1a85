"""The decoder of SMCA-DETR: co-attention under a Gaussian prior."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn as nn
from mmcv.cnn.bricks.transformer import MultiheadAttention
from mmdet.models.layers import (
    MLP,
    DetrTransformerDecoder,
    DetrTransformerDecoderLayer,
)
from mmengine.model import ModuleList
from torch import Tensor

#: Minimum logit of a prior, and the logit of padding. Half precision holds
#: both, the latter vanishes in a softmax beside the former, and a softmax of
#: an image that is all padding stays finite.
FAR, PADDED = -1e4, -6e4


def gaussian_log_prior(
    centres: Tensor, scales: Tensor, map_size: Sequence[int], smoothness: float
) -> Tensor:
    r"""Logarithm of a Gaussian over the cells of a feature map.

    .. math::
        \log G(x, y) = -\frac{s_x^2 (x - c_x)^2 + s_y^2 (y - c_y)^2}{\beta}

    (x, y) are the centres of cells: the first is (0.5, 0.5).

    Args:
        centres (Tensor): c, (..., 2) as x, y in cells.
        scales (Tensor): s, (..., 2) as x, y in 1 / cells.
        map_size (Sequence[int]): Height H and width W of the feature map.
        smoothness (float): beta.

    Returns:
        Tensor: (..., H * W), row by row.
    """
    distances = [
        (scale * (centre - torch.arange(size, device=centre.device).add(0.5)))
        ** 2
        for scale, centre, size in zip(
            scales.split(1, -1), centres.split(1, -1), reversed(map_size)
        )
    ]
    x, y = distances
    squares = y.unsqueeze(-1) + x.unsqueeze(-2)
    return squares.flatten(-2) / -smoothness


class GaussianPrior(nn.Module):
    r"""Where each head of a co-attention looks: a Gaussian per query.

    From a query O at the point c,

    .. math::
        c_i = c + \Delta c_i, \quad
        (\Delta c_1, \dots, \Delta c_M) = \mathrm{FC}(O), \quad
        (s_1, \dots, s_M) = \mathrm{FC}(O),

    and head i has :func:`gaussian_log_prior` with c_i and s_i. At first all
    scales are 1. As in the released code ("type3") a large scale makes a
    narrow Gaussian, where the paper divides by it.

    Source: `Fast Convergence of DETR with Spatially Modulated Co-Attention
    <https://arxiv.org/abs/2101.07448>`_, Sec. 3.2; released code:
    https://github.com/gaopengcuhk/SMCA-DETR.

    Args:
        embed_dims (int): Channels C of a query.
        num_heads (int): Heads M.
        smoothness (float): beta.
    """

    def __init__(
        self, embed_dims: int, num_heads: int, smoothness: float
    ) -> None:
        super().__init__()
        self.smoothness = smoothness
        self.norm = nn.LayerNorm(embed_dims)
        self.offsets = nn.Linear(embed_dims, 2 * num_heads)
        self.scales = nn.Linear(embed_dims, 2 * num_heads)
        self.reset_scales()

    def reset_scales(self) -> None:
        """All scales become 1, whatever the query."""
        nn.init.zeros_(self.scales.weight)
        nn.init.ones_(self.scales.bias)

    def forward(
        self,
        query: Tensor,
        points: Tensor,
        map_size: Sequence[int],
        padding: Tensor,
    ) -> Tensor:
        """Logits to add to those of the co-attention.

        Args:
            query (Tensor): (N, Q, C), with its position code.
            points (Tensor): Point of each query, (N, Q, 2) in cells.
            map_size (Sequence[int]): Height H and width W of the feature map.
            padding (Tensor): (N, H * W), true on padding.

        Returns:
            Tensor: (N, M, Q, H * W), in the dtype of ``query``.
        """
        n, q, _ = query.shape
        normed = self.norm(query)
        offsets, scales = (
            # Squared distances would be coarse in half precision.
            layer(normed).float().view(n, q, -1, 2).transpose(1, 2)
            for layer in (self.offsets, self.scales)
        )
        logits = gaussian_log_prior(
            points.unsqueeze(1) + offsets, scales, map_size, self.smoothness
        )
        logits = logits.clamp_min(FAR)
        logits = logits.masked_fill(padding[:, None, None], PADDED)
        return logits.to(query.dtype)


class CoAttention(MultiheadAttention):
    r"""Multi-head attention with logits added for each head.

    .. math::
        \mathrm{softmax}(Q_i K_i^T / \sqrt{d} + \log G_i) V_i

    Source: SMCA (see :class:`GaussianPrior`), Sec. 3.2.
    """

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        query_pos: Tensor,
        key_pos: Tensor,
        attn_mask: Tensor,
        **kwargs: Any,
    ) -> Tensor:
        """Sum of attended values and query, (N, Q, C).

        Args:
            query, query_pos (Tensor): (N, Q, C).
            key, value, key_pos (Tensor): (N, L, C).
            attn_mask (Tensor): log G, (N, M, Q, L), low where there is
                padding.
            **kwargs: Not used.
        """
        out, _ = self.attn(
            (query + query_pos).transpose(0, 1),
            (key + key_pos).transpose(0, 1),
            value.transpose(0, 1),
            attn_mask=attn_mask.flatten(0, 1),
            # So it calls F.scaled_dot_product_attention.
            need_weights=False,
        )
        out = self.proj_drop(out.transpose(0, 1))
        return query + self.dropout_layer(out)


class SMCADecoderLayer(DetrTransformerDecoderLayer):
    """A decoder layer of DETR with :class:`CoAttention`."""

    def _init_layers(self) -> None:
        super()._init_layers()
        self.cross_attn = CoAttention(**self.cross_attn_cfg)


class SMCADecoder(DetrTransformerDecoder):
    """Decoder of SMCA-DETR.

    The first layer's query predicts one point of the image. The Gaussians of
    all layers are near it, and the boxes are predicted relative to it.

    Args:
        *args: See mmdet's ``DetrTransformerDecoder``.
        smoothness (float): beta of :func:`gaussian_log_prior`. Defaults to
            8.
        **kwargs: See mmdet's ``DetrTransformerDecoder``.
    """

    def __init__(
        self, *args: Any, smoothness: float = 8.0, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.priors = ModuleList(
            GaussianPrior(
                self.embed_dims, layer.cross_attn.num_heads, smoothness
            )
            for layer in self.layers
        )
        self.point_head = MLP(self.embed_dims, self.embed_dims, 2, 3)

    def _init_layers(self) -> None:
        super()._init_layers()
        self.layers = ModuleList(
            SMCADecoderLayer(**self.layer_cfg) for _ in self.layers
        )

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        query_pos: Tensor,
        key_pos: Tensor,
        key_padding_mask: Tensor,
        map_size: Sequence[int],
        valid_sizes: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Decode queries.

        Args:
            query, query_pos (Tensor): (N, Q, C).
            key, key_pos (Tensor): (N, H * W, C).
            key_padding_mask (Tensor): (N, H * W), true on padding.
            map_size (Sequence[int]): H and W.
            valid_sizes (Tensor): Width and height of each image in cells,
                (N, 2).

        Returns:
            tuple[Tensor]: Hidden states of the layers, (layers, N, Q, C), of
            the last alone without ``return_intermediate``; and the points,
            (N, Q, 2) as x, y relative to the image.
        """
        first = self.priors[0].norm(query + query_pos)
        points = self.point_head(first).float().sigmoid()
        cells = points * valid_sizes.unsqueeze(1)
        states = []
        for layer, prior in zip(self.layers, self.priors):
            logits = prior(
                query + query_pos, cells, map_size, key_padding_mask
            )
            query = layer(
                query,
                key=key,
                value=key,
                query_pos=query_pos,
                key_pos=key_pos,
                cross_attn_mask=logits,
            )
            states.append(query)
        if not self.return_intermediate:
            states = states[-1:]
        return self.post_norm(torch.stack(states)), points
