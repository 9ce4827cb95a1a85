"""Base class of Contextual ConvNeXt and Contextual ResNet."""

import math
from collections.abc import Iterable, Sequence
from typing import Optional

import torch.nn as nn
from torch import Tensor

from mmctx.models.backbones.base import (
    NUM_STAGES,
    ContextBackbone,
    Stage,
    drop_path_rates,
)
from mmctx.models.backbones.feature_maps import FeatureMaps
from mmctx.models.layers.contextual_conv import (
    SamplingPredictor,
    WeightPredictor,
)
from mmctx.models.layers.contextualizing import (
    START_SCALE,
    ContextualizingLayers,
)
from mmctx.models.layers.pooling import halved, sizes_without_padding
from mmctx.weights.keys import contextual_cnn as keys


class ScoredMaps(FeatureMaps):
    """Feature maps, followed by the class scores of the stages.

    A tuple of one feature map (N, C, H, W) per out index, then the scores
    (N, classes) of each scored stage, then the masks (N, classes) of the
    classes that each stage but the last keeps.
    """

    @property
    def class_scores(self) -> tuple[Tensor, ...]:
        """Scores (N, classes) of each scored stage.

        In the order of the classes; the last are the logits. With
        ``selection='reduce'``, classes that are no longer considered score
        minus infinity.
        """
        return tuple(x for x in self.extras if x.is_floating_point())

    @property
    def considered(self) -> tuple[Optional[Tensor], ...]:
        """The classes that each scored stage considers, None for all.

        Masks (N, classes): what the previous stage kept.
        """
        masks = (x for x in self.extras if not x.is_floating_point())
        return (None, *masks) if self.class_scores else ()


class ContextualStage(Stage):
    """Blocks that share a context and the valid sizes of a batch."""

    def forward(
        self, x: Tensor, context: Optional[Tensor], valid: Optional[Tensor]
    ) -> Tensor:
        """(N, C_in, H, W), context and valid sizes to (N, C, H', W')."""
        for block in self:
            x = self._run(block, x, context, valid)
            valid = halved(valid, block.stride)
        return x


class ContextualCNN(ContextBackbone):
    """Base class of contextual ConvNeXts and ResNets.

    After each stage but the last, a contextualizing layer scores the classes
    by the stage's feature map and merges the embeddings of the most likely
    ones into one vector per image, the context of the contextual convolutions
    in the next stage.

    As the backbone of a detector (the default) it keeps the class embeddings,
    so ``num_classes`` stays that of pre-training. The choice of classes passes
    no gradient, and without a loss on the scores, score heads and temperature
    get none: they are frozen, norms in evaluation mode, and should be
    pre-trained. Embeddings, mergers and predictors learn. The scores of the
    last stage are not computed. ``frozen_stages`` also freezes the mergers of
    frozen stages, and the embeddings, which all stages share, once no later
    stage needs them.

    Source: `Contextual Convolutional Networks
    <https://openreview.net/forum?id=PldynS56bN>`_, Sec. 3, Fig. 2; released
    code: https://github.com/aliyun/Contextual-Convolutional-Networks.

    Args:
        stage_channels (Sequence[int]): Channels of the four feature maps.
        conv_channels (Sequence[int]): Channels of the convolutions that may
            be contextual; a context has half as many.
        score_channels (Sequence[int]): Hidden channels of the score heads.
        depths (Sequence[int]): Blocks of the four stages.
        contextual_stages (Sequence[int]): Stages (0 to 3) with contextual
            convolutions (Table 6). Stage 0 receives the merge of all classes,
            the same for every image. Defaults to (1, 2, 3).
        contextual_every (int): Every n-th block of such a stage, from the
            first, is contextual. Defaults to 1.
        num_classes (int): Number of classes N_1. Defaults to 1000.
        class_counts (Sequence[int], optional): Number of classes that the
            first three stages keep for the next, N_2 to N_4. Defaults to the
            published shares, half, a fifth and a twentieth of ``num_classes``:
            (500, 200, 50) of 1000.
        selection (str): 'rerank' picks them from all classes at every stage,
            as released; 'reduce' from those picked before, and predicts one of
            the last, as in the paper. Defaults to 'rerank'.
        embedding_dims (int): Dimensions d of a class embedding (Table 6).
            Defaults to 256.
        temperature (str): 'shared', 'stagewise', 'two' or 'fixed', as in
            the released code; see :class:`~mmctx.models.layers.
            contextualizing.ContextualizingLayers`. Defaults to 'shared'.
        start_scale (float): Initial factor of the cosines, positive; fewer
            classes allow a smaller one. Defaults to 1 / 0.07.
        use_context (bool): Give the contextual convolutions their context
            (Table 4). Without it, only a classifier has score heads. Defaults
            to True.
        weight_offsets, sampling_offsets, mask (bool): What the contextual
            convolutions modulate (Table 5), see
            :class:`~mmctx.models.layers.ContextualConv2d`. Default to True.
        drop_without_context (bool): Stochastic depth only in blocks that are
            not contextual, ``drop_without_ctx`` of the released code.
            Defaults to False.
        with_class_scores (bool): For a classifier: class scores of all
            scored stages follow the feature maps, see :class:`ScoredMaps`,
            and their heads learn. ``out_indices`` must hold the last stage.
            Defaults to False.
        scored_stages (Sequence[int], optional): Stages whose classes a
            classifier scores. Defaults to the last one and those before
            contextual stages.
        ignore_padding (bool): Exclude the zeros that pad smaller images of a
            batch at the bottom and right from all global means, so that a
            context does not depend on the batch. Padding is recognised as zero
            in every channel. Defaults to False, as released.
        drop_path_rate (float): Stochastic depth of the last block; it grows
            linearly from 0 at the first. Defaults to 0.
        **kwargs: See :class:`ContextBackbone`.

    Raises:
        ValueError: An argument is invalid.
    """

    key_map = staticmethod(keys.key_map)
    optional_keys = keys.CONTEXTUAL

    def __init__(
        self,
        stage_channels: Sequence[int],
        conv_channels: Sequence[int],
        score_channels: Sequence[int],
        depths: Sequence[int],
        /,
        contextual_stages: Sequence[int] = (1, 2, 3),
        contextual_every: int = 1,
        num_classes: int = 1000,
        class_counts: Optional[Sequence[int]] = None,
        selection: str = 'rerank',
        embedding_dims: int = 256,
        temperature: str = 'shared',
        start_scale: float = START_SCALE,
        use_context: bool = True,
        weight_offsets: bool = True,
        sampling_offsets: bool = True,
        mask: bool = True,
        drop_without_context: bool = False,
        with_class_scores: bool = False,
        scored_stages: Optional[Sequence[int]] = None,
        ignore_padding: bool = False,
        drop_path_rate: float = 0.0,
        **kwargs,
    ) -> None:
        super().__init__(stage_channels, **kwargs)
        if contextual_every < 1:
            raise ValueError(
                'contextual_every must be 1 or more, got '
                f'{contextual_every!r}.'
            )
        if with_class_scores and self.out_indices[-1] != NUM_STAGES - 1:
            raise ValueError(
                'with_class_scores needs the last stage among out_indices, '
                f'got {self.out_indices!r}.'
            )
        self.contextual_stages = self._resolve_stages(
            'contextual_stages', contextual_stages
        )
        self.contextual_every = contextual_every
        self.with_class_scores = with_class_scores
        self.ignore_padding = ignore_padding
        self.conv_cfg = dict(
            weight_offsets=weight_offsets,
            sampling_offsets=sampling_offsets,
            mask=mask,
            norm_cfg=self.norm_cfg,
        )
        contexts = {
            i: conv_channels[i] // 2
            for i in self.contextual_stages
            if use_context and i < self.num_stages
        }
        scored = self._scored_stages(contexts, scored_stages)
        if class_counts is None:
            class_counts = [math.ceil(num_classes / n) for n in (2, 5, 20)]
        self.stem = self._make_stem()
        rates = drop_path_rates(drop_path_rate, depths)
        for i in range(self.num_stages):
            blocks = []
            for j, rate in enumerate(rates[i]):
                conv_cfg = None
                if self._is_contextual(i, j):
                    rate = 0.0 if drop_without_context else rate
                    conv_cfg = dict(
                        self.conv_cfg, context_channels=contexts.get(i, 0)
                    )
                blocks.append(self._make_block(i, j, rate, conv_cfg))
            self.stages.append(ContextualStage(*blocks, with_cp=self.with_cp))
        self.contextualizing = ContextualizingLayers(
            num_classes,
            embedding_dims,
            {i: (stage_channels[i], score_channels[i]) for i in scored},
            contexts,
            self.norm_cfg,
            class_counts,
            selection,
            temperature,
            start_scale,
        )
        self._finish_init()

    @staticmethod
    def _resolve_stages(name: str, stages: Sequence[int]) -> tuple[int, ...]:
        if any(i not in range(NUM_STAGES) for i in stages):
            raise ValueError(
                f'{name} must hold stages from 0 to {NUM_STAGES - 1}, got '
                f'{stages!r}.'
            )
        return tuple(sorted({*stages}))

    def _scored_stages(
        self, contexts: Iterable[int], scored_stages: Optional[Sequence[int]]
    ) -> list[int]:
        """Stages with a score head."""
        needed = {i - 1 for i in contexts if i > 0}
        if not self.with_class_scores:
            return sorted(needed)
        if scored_stages is None:
            before = {i - 1 for i in self.contextual_stages if i > 0}
            return sorted(before | {NUM_STAGES - 1})
        scored = self._resolve_stages('scored_stages', scored_stages)
        if not needed | {NUM_STAGES - 1} <= {*scored}:
            raise ValueError(
                'scored_stages must hold the last stage and those before '
                f'contextual ones, {sorted(needed | {NUM_STAGES - 1})}, got '
                f'{scored_stages!r}.'
            )
        return list(scored)

    def _is_contextual(self, stage: int, index: int) -> bool:
        return (
            stage in self.contextual_stages
            and index % self.contextual_every == 0
        )

    def _make_stem(self) -> nn.Module:
        raise NotImplementedError

    def _make_block(
        self, stage: int, index: int, rate: float, conv_cfg: Optional[dict]
    ) -> nn.Module:
        """Build the block at an index of a stage, with a drop-path rate.

        ``conv_cfg`` holds the arguments that a :class:`ContextualConv2d` has
        beyond those of an ordinary convolution, for which it is None. The
        block is called with a feature map, a context and valid sizes; its
        ``stride`` is 1 or 2.
        """
        raise NotImplementedError

    def _plain_modules(self) -> Iterable[nn.Module]:
        """All modules outside the predictors.

        The predictors keep PyTorch's initial values, with zeros in the last
        layer.
        """
        inside = {
            part
            for predictor in self.modules()
            if isinstance(predictor, (SamplingPredictor, WeightPredictor))
            for part in predictor.modules()
        }
        return (m for m in self.modules() if m not in inside)

    def _freeze_stages(self) -> None:
        super()._freeze_stages()
        self.contextualizing.freeze(
            scores=not self.with_class_scores, stages=self.frozen_stages
        )

    def unbuilt_keys(self) -> tuple[str, ...]:
        layers = self.contextualizing
        unbuilt = [
            f'contextualizing.{kind}.{i}.'
            for kind, built in (
                ('classify', layers.classify),
                ('merge', layers.merge),
            )
            for i in range(NUM_STAGES)
            if str(i) not in built
        ]
        if not layers.classify:
            unbuilt.append('contextualizing.log_scale')
            if not layers.merge:
                unbuilt.append('contextualizing.embedding')
        return (*super().unbuilt_keys(), *unbuilt)

    def forward(
        self, x: Tensor, valid_sizes: Optional[Tensor] = None
    ) -> tuple[Tensor, ...]:
        """Feature maps of a batch of images.

        Args:
            x (Tensor): As in :class:`ContextBackbone`.
            valid_sizes (Tensor, optional): Height and width (N, 2) of each
                image inside a padded batch, integers in pixels: what is below
                and to the right is excluded from global means. The default
                follows ``ignore_padding``.

        Returns:
            tuple[Tensor]: As in :class:`ContextBackbone`; a
            :class:`ScoredMaps` in a classifier.
        """
        if valid_sizes is not None and (
            valid_sizes.shape != (x.shape[0], 2)
            or valid_sizes.is_floating_point()
        ):
            raise ValueError(
                'valid_sizes must hold height and width of each image, '
                f'integers of shape {(x.shape[0], 2)}, got '
                f'{valid_sizes.dtype} of shape {tuple(valid_sizes.shape)}.'
            )
        return super().forward(x, valid_sizes=valid_sizes)

    def _forward_maps(
        self, x: Tensor, valid_sizes: Optional[Tensor]
    ) -> tuple[Tensor, ...]:
        if valid_sizes is None and self.ignore_padding:
            valid_sizes = sizes_without_padding(x)
        x = self.stem(x)
        maps, scores, masks = [], [], []
        valid = halved(valid_sizes, self.stage_strides[0])
        # A contextual first stage sees all classes.
        _, considered, context = self.contextualizing(-1, x)
        for i, stage in enumerate(self.stages):
            if i < self.frozen_stages and context is not None:
                context = context.detach()
            x = stage(x, context, valid)
            valid = halved(valid_sizes, self.stage_strides[i])
            if i in self.out_indices:
                maps.append(x.contiguous())
            # The choice of classes passes no gradient.
            features = x if self.with_class_scores else x.detach()
            left_before = considered
            stage_scores, considered, context = self.contextualizing(
                i, features, left_before, valid
            )
            if stage_scores is not None:
                scores.append(stage_scores)
                if left_before is not None:
                    masks.append(left_before)
        if not self.with_class_scores:
            return tuple(maps)
        return ScoredMaps((*maps, *scores, *masks))

    def get_layer_depth(
        self, param_name: str, prefix: str = ''
    ) -> tuple[int, int]:
        """As in :class:`ContextBackbone`.

        A score head belongs to the last block of the stage that it scores, a
        merger to the first block of the stage that receives its context;
        embeddings and temperature belong to the first merger or head.
        """
        if not param_name.startswith(f'{prefix}contextualizing.'):
            return super().get_layer_depth(param_name, prefix)
        parts = param_name[len(prefix) :].split('.')
        layers = self.contextualizing
        places = [(int(i), 0) for i in layers.merge]
        places += [(int(i), len(self.stages[int(i)]) - 1)
                   for i in layers.classify]  # fmt: skip
        stage, block = min(places)
        if parts[1] == 'merge':
            stage, block = int(parts[2]), 0
        elif parts[1] == 'classify':
            stage, block = int(parts[2]), len(self.stages[int(parts[2])]) - 1
        return super().get_layer_depth(f'stages.{stage}.{block}.')
