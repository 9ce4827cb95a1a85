"""Contextualizing layers: likely classes, and their context."""

import math
from collections.abc import Mapping
from typing import Optional, Union

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from mmctx.models.layers.norms import apply_vector_norm, build_vector_norm
from mmctx.models.layers.pooling import global_mean

TEMPERATURES = ('shared', 'stagewise', 'two', 'fixed')
#: The release's factor of the cosines at the start, 1 / tau.
START_SCALE = 1 / 0.07
LAST_STAGE = 3


def considered_classes(
    scores: Tensor, count: int, among: Optional[Tensor] = None
) -> Tensor:
    """The classes with the highest scores.

    Args:
        scores (Tensor): (N, classes).
        count (int): How many are kept for each image.
        among (Tensor, optional): Mask (N, classes) of those that may be
            kept. Defaults to all.

    Returns:
        Tensor: Mask (N, classes), bool.
    """
    scores = scores.detach()
    if among is not None:
        scores = scores.masked_fill(~among, -torch.inf)
    kept = scores.topk(count, dim=1, sorted=False).indices
    return torch.zeros_like(scores).scatter(1, kept, 1.0).bool()


class ScoreHead(nn.Module):
    """From a map to a vector that is compared with class embeddings.

    Global mean, linear layer, norm, ReLU, linear layer (Sec. 3.2,
    "Classifying").

    Args:
        channels (int): Channels C of the map.
        hidden (int): Channels between the linear layers.
        dims (int): Dimensions d of a class embedding.
        norm_cfg (dict): A norm of maps; the epsilon of layer norm is
            PyTorch's.
    """

    def __init__(
        self, channels: int, hidden: int, dims: int, norm_cfg: dict
    ) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.norm = build_vector_norm(norm_cfg, hidden)
        self.fc2 = nn.Linear(hidden, dims)

    def forward(self, x: Tensor, valid: Optional[Tensor] = None) -> Tensor:
        """(N, C, H, W) and valid sizes (N, 2) to (N, d)."""
        hidden = self.fc1(global_mean(x, valid))
        return self.fc2(F.relu(apply_vector_norm(self.norm, hidden)))


class ClassMerger(nn.Module):
    """From the embeddings of the considered classes to one context.

    Linear layer, layer norm and ReLU on every embedding, their mean, and
    the same once more (Sec. 3.2, "Merging").

    Args:
        dims (int): Dimensions d of a class embedding.
        channels (int): Channels of the context.
    """

    def __init__(self, dims: int, channels: int) -> None:
        super().__init__()
        hidden = max(dims // 4, 128)
        self.fc1 = nn.Linear(dims, hidden)
        self.norm1 = nn.LayerNorm(hidden)
        self.fc2 = nn.Linear(hidden, channels)
        self.norm2 = nn.LayerNorm(channels)

    def forward(
        self, embeddings: Tensor, considered: Optional[Tensor] = None
    ) -> Tensor:
        """Context of each image.

        The first layer sees every class once, whatever the number of
        images and however many of them share a class.

        Args:
            embeddings (Tensor): (classes, d).
            considered (Tensor, optional): Mask (N, classes). Defaults to all
                classes, for one image.

        Returns:
            Tensor: (N, channels).
        """
        hidden = F.relu(self.norm1(self.fc1(embeddings)))
        if considered is None:
            mean = hidden.mean(0, keepdim=True)
        else:
            weights = considered.to(hidden.dtype)
            mean = weights @ hidden / weights.sum(1, keepdim=True)
        return F.relu(self.norm2(self.fc2(mean)))


class ContextualizingLayers(nn.Module):
    """The class embeddings, and what reads and merges them at each stage.

    Embeddings and scores stay in the order of the classes at every stage.
    The release sorts both by the scores of the stage before; the numbers
    are the same.

    Source: `Contextual Convolutional Networks
    <https://openreview.net/forum?id=PldynS56bN>`_, Sec. 3.2, Fig. 3 (a).

    Args:
        num_classes (int): Number of classes.
        dims (int): Dimensions d of a class embedding.
        heads (Mapping): For each scored stage (0 to 3) the channels of its
            map, and the hidden channels of its :class:`ScoreHead`.
        contexts (Mapping): For each stage that receives a context the
            context's channels.
        temperature (str): Learned factors of the cosines, 1 / tau: 'shared'
            by all stages, 'stagewise', 'two' (the last stage has its own),
            or 'fixed', none.
        norm_cfg (dict): Norm of the score heads.
        start_scale (float): The factors at the start, positive. Defaults to
            1 / 0.07, as released.

    Raises:
        ValueError: ``temperature`` is not one of the above, or
            ``start_scale`` is not positive.
    """

    def __init__(
        self,
        num_classes: int,
        dims: int,
        heads: Mapping[int, tuple[int, int]],
        contexts: Mapping[int, int],
        temperature: str,
        norm_cfg: dict,
        start_scale: float = START_SCALE,
    ) -> None:
        super().__init__()
        if start_scale <= 0:
            raise ValueError(
                f'start_scale must be a positive number, got {start_scale!r}.'
            )
        if temperature not in TEMPERATURES:
            raise ValueError(
                f'temperature must be one of {TEMPERATURES}, got '
                f'{temperature!r}.'
            )
        self.temperature = temperature
        self.start_scale = start_scale
        self.classify = nn.ModuleDict(
            {
                str(i): ScoreHead(channels, hidden, dims, norm_cfg)
                for i, (channels, hidden) in heads.items()
            }
        )
        self.merge = nn.ModuleDict(
            {str(i): ClassMerger(dims, c) for i, c in contexts.items()}
        )
        if heads or contexts:
            self.embedding = nn.Parameter(torch.empty(num_classes, dims))
            nn.init.normal_(self.embedding, std=0.02)
        if heads:
            self._make_scales()

    def _make_scales(self) -> None:
        start = torch.tensor(math.log(self.start_scale))
        if self.temperature == 'shared':
            self.log_scale = nn.Parameter(start)
        elif self.temperature != 'fixed':
            count = 2 if self.temperature == 'two' else LAST_STAGE + 1
            self.log_scale = nn.ParameterList(
                nn.Parameter(start.clone()) for _ in range(count)
            )

    def freeze(self, scores: bool, stages: int) -> None:
        """Freeze what gets no gradient.

        Args:
            scores (bool): Score heads and temperature.
            stages (int): Mergers of so many first stages; with the scores
                the embeddings, too, once no other merger is left.
        """
        frozen = [m for i, m in self.merge.items() if int(i) < stages]
        if scores:
            frozen.append(self.classify)
        for module in frozen:
            module.eval()
            module.requires_grad_(False)
        for name, parameter in self.named_parameters():
            if scores and (
                name.startswith('log_scale')
                or (name == 'embedding' and len(frozen) > len(self.merge))
            ):
                parameter.requires_grad_(False)

    def _scale(self, stage: int, dtype: torch.dtype) -> Union[float, Tensor]:
        if self.temperature == 'fixed':
            return self.start_scale
        scale = self.log_scale
        if self.temperature == 'stagewise':
            scale = scale[stage]
        elif self.temperature == 'two':
            scale = scale[int(stage == LAST_STAGE)]
        return scale.to(dtype).exp()

    def scores(
        self, stage: int, x: Tensor, valid: Optional[Tensor] = None
    ) -> Tensor:
        """Cosines of a map and the class embeddings, divided by tau.

        At least in single precision, under automatic mixed precision, too:
        the choice of classes depends on small differences.

        Args:
            stage (int): Whose map it is.
            x (Tensor): (N, C, H, W).
            valid (Tensor, optional): Valid sizes (N, 2).

        Returns:
            Tensor: (N, classes), in the order of the classes.
        """
        device = 'cpu' if x.is_meta else x.device.type  # no meta in autocast
        if torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                return self.scores(stage, x.float(), valid)
        vector = self.classify[str(stage)](x, valid)
        dtype = torch.promote_types(vector.dtype, torch.float32)
        vector = F.normalize(vector.to(dtype), dim=1)
        embedding = F.normalize(self.embedding.to(dtype), dim=1)
        return self._scale(stage, dtype) * (vector @ embedding.T)

    def context(
        self, stage: int, considered: Optional[Tensor], batch_size: int
    ) -> Tensor:
        """The context of a stage.

        Args:
            stage (int): The stage that receives it.
            considered (Tensor, optional): Mask (N, classes); all, if None.
            batch_size (int): Number of images N.

        Returns:
            Tensor: (N, channels).
        """
        context = self.merge[str(stage)](self.embedding, considered)
        return context.expand(batch_size, -1)
