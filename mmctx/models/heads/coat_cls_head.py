"""The classifier of CoaT."""

from typing import Optional

import torch
from mmpretrain.models.heads import LinearClsHead
from torch import Tensor, nn


class CoaTClsHead(LinearClsHead):
    """Linear classifier on the class tokens of CoaT.

    Each token is normalised; a weighted sum with one learned weight per token
    merges several (Sec. 4, "aggregate" in the released code). The backbone
    must be built with ``with_cls_token=True``.

    Args:
        num_classes (int): Number of classes.
        in_channels (int): Channels C of the class tokens.
        num_tokens (int): 1 for CoaT-Lite, 3 for CoaT with parallel blocks.
            Defaults to 1.
        init_cfg (dict, optional): Initialisation. Defaults to a truncated
            normal distribution of standard deviation 0.02.
        **kwargs: See mmpretrain's ``ClsHead``.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        num_tokens: int = 1,
        init_cfg: Optional[dict] = dict(  # noqa: B006
            type='TruncNormal', layer='Linear', std=0.02
        ),
        **kwargs,
    ) -> None:
        super().__init__(num_classes, in_channels, init_cfg, **kwargs)
        self.norms = nn.ModuleList(
            nn.LayerNorm(in_channels, eps=1e-6) for _ in range(num_tokens)
        )
        if num_tokens > 1:
            self.aggregate = nn.Conv1d(num_tokens, 1, 1)

    def pre_logits(self, feats: tuple[Tensor, ...]) -> Tensor:
        """One vector (N, C) per image.

        Raises:
            ValueError: ``feats`` has the wrong number of class tokens.
        """
        tokens = getattr(feats, 'cls_tokens', ())
        if len(tokens) != len(self.norms):
            raise ValueError(
                f'This CoaTClsHead takes {len(self.norms)} class tokens, got '
                f'{len(tokens)}. Build CoaT with with_cls_token=True, leave '
                'the neck out, and set num_tokens to 1 for CoaT-Lite, to 3 '
                'for CoaT with parallel blocks.'
            )
        normed = [norm(token) for norm, token in zip(self.norms, tokens)]
        if len(normed) == 1:
            return normed[0]
        return self.aggregate(torch.stack(normed, dim=1)).squeeze(1)
