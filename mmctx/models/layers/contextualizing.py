"""Contextualizing layers: likely classes, and their context."""

import math
from collections.abc import Mapping, Sequence
from typing import Optional

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from mmctx.models.layers.norms import apply_vector_norm, build_vector_norm
from mmctx.models.layers.pooling import global_mean
from mmctx.ops.precision import without_autocast

#: Index of the learned factor that each stage takes.
TEMPERATURES = {
    'shared': (0, 0, 0, 0),
    'stagewise': (0, 1, 2, 3),
    'two': (0, 0, 0, 1),
    'fixed': (),
}
#: Initial factor of the cosines in the release, 1 / tau.
START_SCALE = 1 / 0.07
SELECTIONS = ('rerank', 'reduce')


def considered_classes(scores: Tensor, count: int) -> Tensor:
    """The classes with the highest scores.

    Args:
        scores (Tensor): (N, classes).
        count (int): Number of classes to keep for each image.

    Returns:
        Tensor: Mask (N, classes), bool.
    """
    kept = scores.detach().topk(count, dim=1, sorted=False).indices
    # Of floats: a traced module has no scatter of booleans.
    return torch.zeros_like(scores).scatter(1, kept, 1.0) > 0


class ScoreHead(nn.Module):
    """Project a feature map to a vector to compare with class embeddings.

    Global mean, linear layer, norm, ReLU, linear layer (Sec. 3.2,
    "Classifying").

    Args:
        channels (int): Channels C of the feature map.
        hidden (int): Channels between the linear layers.
        dims (int): Dimensions d of a class embedding.
        norm_cfg (dict): A norm of feature maps; the epsilon of layer norm is
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
        """(N, C, H, W) and valid sizes (N, 2) to (N, d), without autocast."""
        mean = global_mean(x, valid)
        with without_autocast(x):
            hidden = apply_vector_norm(self.norm, self.fc1(mean))
            return self.fc2(F.relu(hidden))


class ClassMerger(nn.Module):
    """Merge the embeddings of the considered classes into one context.

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

        The first layer runs once per class, however many images share it.

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
    """Class embeddings, with the score heads and mergers of all stages.

    Embeddings and scores stay in the order of the classes at every stage.
    The release sorts both by the scores of the stage before; the results
    are the same.

    Source: `Contextual Convolutional Networks
    <https://openreview.net/forum?id=PldynS56bN>`_, Sec. 3.2, Fig. 3 (a).

    Args:
        num_classes (int): Number of classes.
        dims (int): Dimensions d of a class embedding.
        heads (Mapping): For each scored stage (0 to 3) the channels of its
            feature map, and the hidden channels of its :class:`ScoreHead`.
        contexts (Mapping): For each stage that receives a context the
            context's channels.
        norm_cfg (dict): Norm of the score heads.
        class_counts (Sequence[int]): Number of classes that each stage but the
            last keeps for the next.
        selection (str): 'rerank' chooses them among all classes, 'reduce'
            among those that the previous stage kept: the others score minus
            infinity. Defaults to 'rerank'.
        temperature (str): Learned factors of the cosines, 1 / tau, as in the
            released code: 'shared' by all stages, 'stagewise', 'two' (the
            last stage has its own), or 'fixed', none. Defaults to 'shared'.
        start_scale (float): Initial factors, positive. Defaults to 1 / 0.07,
            as released.

    Raises:
        ValueError: An argument is invalid.
    """

    def __init__(
        self,
        num_classes: int,
        dims: int,
        heads: Mapping[int, tuple[int, int]],
        contexts: Mapping[int, int],
        norm_cfg: dict,
        class_counts: Sequence[int],
        selection: str = 'rerank',
        temperature: str = 'shared',
        start_scale: float = START_SCALE,
    ) -> None:
        super().__init__()
        self._check(num_classes, class_counts, selection)
        if start_scale <= 0:
            raise ValueError(
                f'start_scale must be a positive number, got {start_scale!r}.'
            )
        if temperature not in TEMPERATURES:
            raise ValueError(
                f'temperature must be one of {tuple(TEMPERATURES)}, got '
                f'{temperature!r}.'
            )
        self.class_counts = tuple(class_counts)
        self.selection = selection
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

    @staticmethod
    def _check(
        num_classes: int, class_counts: Sequence[int], selection: str
    ) -> None:
        if len(class_counts) != 3 or any(
            not 1 <= count <= num_classes for count in class_counts
        ):
            raise ValueError(
                'class_counts must hold three numbers from 1 to num_classes '
                f'({num_classes}), how many classes the first three stages '
                f'leave for the next, got {class_counts!r}.'
            )
        if selection not in SELECTIONS:
            raise ValueError(
                f'selection must be one of {SELECTIONS}, got {selection!r}.'
            )
        counts = list(class_counts)
        if selection == 'reduce' and counts != sorted(counts, reverse=True):
            raise ValueError(
                "class_counts must not grow with selection='reduce', got "
                f'{class_counts!r}.'
            )

    def _make_scales(self) -> None:
        scales = [
            nn.Parameter(torch.full((1,), math.log(self.start_scale)))
            for _ in {*TEMPERATURES[self.temperature]}
        ]
        if self.temperature == 'shared':
            (self.log_scale,) = scales
        elif scales:
            self.log_scale = nn.ParameterList(scales)

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        """Released and older state dicts hold scalar scales."""
        for key, value in state_dict.items():
            if key.startswith(f'{prefix}log_scale'):
                state_dict[key] = value.flatten()
        super()._load_from_state_dict(state_dict, prefix, *args)

    def freeze(self, scores: bool, stages: int) -> None:
        """Freeze what gets no gradient.

        Args:
            scores (bool): Score heads and temperature.
            stages (int): Mergers of the first this many stages; with
                ``scores`` also the embeddings, once no other merger is left.
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

    def forward(
        self,
        stage: int,
        x: Tensor,
        considered: Optional[Tensor] = None,
        valid: Optional[Tensor] = None,
    ) -> tuple[Optional[Tensor], Optional[Tensor], Optional[Tensor]]:
        """Score the classes after a stage; merge a context for the next.

        Args:
            stage (int): The stage, -1 for the stem.
            x (Tensor): Its feature map (N, C, H, W).
            considered (Tensor, optional): Mask (N, classes) of the classes
                that the previous stage kept. Defaults to all.
            valid (Tensor, optional): Valid sizes (N, 2).

        Returns:
            tuple: Scores (N, classes) in the order of the classes, None
            without a score head; a mask (N, classes) of the classes that it
            keeps, None for all; the context (N, channels) of the next stage,
            None if it receives none.
        """
        scores = context = None
        if str(stage) in self.classify:
            scores = self._scores(stage, x, valid)
            if self.selection == 'reduce' and considered is not None:
                scores = scores.masked_fill(~considered, -torch.inf)
            considered = None
            if stage < len(self.class_counts):
                count = self.class_counts[stage]
                considered = considered_classes(scores, count)
        if str(stage + 1) in self.merge:
            merge = self.merge[str(stage + 1)]
            context = merge(self.embedding, considered)
            context = context.expand(x.shape[0], -1)
        return scores, considered, context

    def _scores(
        self, stage: int, x: Tensor, valid: Optional[Tensor]
    ) -> Tensor:
        """Cosines of a feature map and the class embeddings, over tau.

        In float32 or better even under automatic mixed precision: the choice
        of classes depends on small differences.
        """
        vector = self.classify[str(stage)](x, valid)
        with without_autocast(x):
            dtype = torch.promote_types(vector.dtype, torch.float32)
            vector = F.normalize(vector.to(dtype), dim=1)
            embedding = F.normalize(self.embedding.to(dtype), dim=1)
            cosines = vector @ embedding.T
            if self.temperature == 'fixed':
                return self.start_scale * cosines
            scale = self.log_scale
            if self.temperature != 'shared':
                scale = scale[TEMPERATURES[self.temperature][stage]]
            return scale.to(dtype).exp() * cosines
