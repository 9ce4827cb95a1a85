"""SMCA-DETR: DETR with spatially modulated co-attention."""

import math
from typing import Any, Optional

import torch
import torch.nn as nn
from mmdet.models.detectors import DETR
from mmdet.models.layers import (
    DetrTransformerEncoder,
    SinePositionalEncoding,
)
from torch import Tensor

from .smca_decoder import SMCADecoder


class SMCADETR(DETR):
    r"""DETR whose queries look near a point that they predict.

    A query O predicts a point of the image, relative to its size, and each
    head i of each decoder layer a Gaussian G_i near that point, the logarithm
    of which is added to the logits of the co-attention:

    .. math::
        c = \sigma(\mathrm{MLP}(O)), \quad
        \mathrm{softmax}(Q_i K_i^T / \sqrt{d} + \log G_i) V_i .

    Box centres are predicted relative to the point,
    :math:`\sigma(\sigma^{-1}(c) + \Delta)`: by mmdet's
    ``ConditionalDETRHead``, which is the head to name in a config.

    This is the single-scale network. Two things follow the released code
    rather than the paper: the point comes from an MLP of three layers, not
    two, on the first layer's query, and see
    :class:`~.smca_decoder.GaussianPrior` for the scales. One follows
    neither: distances are taken to the centres of cells, not to their first
    corners.

    Source: `Fast Convergence of DETR with Spatially Modulated Co-Attention
    <https://arxiv.org/abs/2101.07448>`_, Sec. 3.2; released code:
    https://github.com/gaopengcuhk/SMCA-DETR.

    Args:
        stride (int): Pixels per cell of the neck's feature map.
            Defaults to 32.
        decoder (dict): Arguments of
            :class:`~.smca_decoder.SMCADecoder`: those of DETR's decoder and
            ``smoothness``.
        **kwargs: See mmdet's ``DETR``.
    """

    def __init__(self, stride: int = 32, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.stride = stride

    def _init_layers(self) -> None:
        """Build everything but backbone, neck and head."""
        self.positional_encoding = SinePositionalEncoding(
            **self.positional_encoding
        )
        self.encoder = DetrTransformerEncoder(**self.encoder)
        self.decoder = SMCADecoder(**self.decoder)
        self.embed_dims = self.encoder.embed_dims
        self.query_embedding = nn.Embedding(self.num_queries, self.embed_dims)

    def init_weights(self) -> None:
        """DETR's initialisation, and Gaussians of scale 1."""
        super().init_weights()
        for prior in self.decoder.priors:
            prior.reset_scales()

    def pre_transformer(
        self, img_feats: tuple[Tensor], batch_data_samples: Optional[list]
    ) -> tuple[dict, dict]:
        """Inputs of encoder and decoder.

        A cell is padding where its first row or column of pixels lies
        outside the image.

        Args:
            img_feats (tuple[Tensor]): One feature map, (N, C, H, W).
            batch_data_samples (list): The images' ``DetDataSample``.

        Returns:
            tuple[dict]: Arguments of ``forward_encoder`` and of
            ``forward_decoder``, without those that depend on the encoder.

        Raises:
            ValueError: The feature map has another stride than the detector.
        """
        feat = img_feats[-1]
        self._check_stride(
            tuple(feat.shape[-2:]), batch_data_samples[0].batch_input_shape
        )
        sizes = feat.new_tensor(
            [sample.img_shape[:2] for sample in batch_data_samples],
            dtype=torch.float32,
        )
        return self.transformer_inputs(feat, sizes.flip(1))

    def transformer_inputs(
        self, feat: Tensor, sizes: Tensor
    ) -> tuple[dict, dict]:
        """As :meth:`pre_transformer`.

        Args:
            feat (Tensor): (N, C, H, W).
            sizes (Tensor): Width and height of each image in pixels, (N, 2).
        """
        map_size = tuple(feat.shape[-2:])
        valid_sizes = sizes / self.stride
        padding = _padding(map_size, valid_sizes)
        pos = self.positional_encoding(padding).to(feat.dtype)
        feat, pos = (x.flatten(2).transpose(1, 2) for x in (feat, pos))
        padding = padding.flatten(1)
        return (
            dict(feat=feat, feat_mask=padding, feat_pos=pos),
            dict(
                memory_mask=padding,
                memory_pos=pos,
                map_size=map_size,
                valid_sizes=valid_sizes,
            ),
        )

    def forward_decoder(
        self,
        query: Tensor,
        query_pos: Tensor,
        memory: Tensor,
        memory_mask: Tensor,
        memory_pos: Tensor,
        **kwargs: Any,
    ) -> dict:
        """Arguments of the head; see :class:`~.smca_decoder.SMCADecoder`."""
        hidden_states, references = self.decoder(
            query=query,
            key=memory,
            query_pos=query_pos,
            key_pos=memory_pos,
            key_padding_mask=memory_mask,
            **kwargs,
        )
        return dict(hidden_states=hidden_states, references=references)

    def _check_stride(self, map_size: tuple, image_size: tuple) -> None:
        expected = tuple(math.ceil(side / self.stride) for side in image_size)
        if map_size != expected:
            raise ValueError(
                f'SMCADETR got a feature map of {map_size} for images of '
                f'{tuple(image_size)} pixels, where its stride of '
                f'{self.stride} needs {expected}. Set `stride` to that of '
                'the feature map that the last out index and the neck '
                'give.'
            )


def _padding(map_size: tuple, valid_sizes: Tensor) -> Tensor:
    """(N, H, W), true in cells that begin outside their image."""
    columns, rows = (
        torch.arange(size, device=valid_sizes.device) >= valid.unsqueeze(1)
        for size, valid in zip(reversed(map_size), valid_sizes.unbind(1))
    )
    return rows.unsqueeze(2) | columns.unsqueeze(1)
