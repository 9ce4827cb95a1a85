"""Contextual ConvNeXt and Contextual ResNet."""

from collections.abc import Iterable, Sequence
from typing import Optional, Union

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmcv.cnn.bricks import DropPath
from mmengine.registry import MODELS
from torch import Tensor

from mmctx.models.backbones.base import NUM_STAGES, STRIDES, ContextBackbone
from mmctx.models.layers import ContextualConv2d
from mmctx.models.layers.bottleneck import (
    Bottleneck,
    conv_norm,
    resolve_depth,
)
from mmctx.models.layers.contextual_conv import (
    SamplingPredictor,
    WeightPredictor,
)
from mmctx.models.layers.contextualizing import (
    START_SCALE,
    ContextualizingLayers,
    considered_classes,
)
from mmctx.models.layers.norms import build_norm
from mmctx.models.layers.patch_embedding import PatchEmbedding
from mmctx.models.layers.pooling import halved, sizes_without_padding
from mmctx.models.layers.tokens import (
    SLICE,
    TokenMLP,
    residual,
    runs_in_slices,
)
from mmctx.ops import add_conv_norm
from mmctx.registry import register
from mmctx.weights.keys import contextual_cnn as keys

SELECTIONS = ('rerank', 'reduce')


class ScoredMaps(tuple):
    """The maps of a backbone, and the class scores of its stages beside them.

    A tuple of one map (N, C, H, W) per out index, as every backbone returns.

    Attributes:
        class_scores (tuple[Tensor]): Scores (N, classes) of each scored
            stage, in the order of the classes. The last are the logits.
        considered (tuple[Optional[Tensor]]): For each of them a mask
            (N, classes) of the classes that the stage before picked, None
            for all.
        selection (str): 'rerank' or 'reduce', as in the backbone.
    """

    def __new__(
        cls,
        maps: Iterable[Tensor],
        class_scores: Iterable[Tensor] = (),
        considered: Iterable[Optional[Tensor]] = (),
        selection: str = 'rerank',
    ) -> 'ScoredMaps':
        self = super().__new__(cls, maps)
        self.class_scores = tuple(class_scores)
        self.considered = tuple(considered)
        self.selection = selection
        return self


def _convolve(
    conv: nn.Conv2d,
    x: Tensor,
    context: Optional[Tensor],
    valid: Optional[Tensor],
) -> Tensor:
    """Of contextual and ordinary convolutions."""
    if isinstance(conv, ContextualConv2d):
        return conv(x, context, valid)
    return conv(x)


class Downsample(nn.Module):
    """Layer norm and a convolution that halves a map.

    Args:
        in_channels (int): Channels of the input.
        channels (int): Channels of the output.
        norm_cfg (dict): A norm over the last dimension.
    """

    def __init__(
        self, in_channels: int, channels: int, norm_cfg: dict
    ) -> None:
        super().__init__()
        self.norm = build_norm(norm_cfg, in_channels)
        self.conv = nn.Conv2d(in_channels, channels, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) to (N, C, ceil(H / 2), ceil(W / 2))."""
        x = self.norm(x)
        height, width = x.shape[2:]
        if height % 2 or width % 2:
            x = F.pad(x, (0, width % 2, 0, height % 2))
        return self.conv(x)


class ConvNeXtBlock(nn.Module):
    """Depth-wise convolution, layer norm and an MLP, residual.

    Args:
        conv (nn.Conv2d): The depth-wise convolution, contextual or not.
        norm_cfg (dict): A norm over the last dimension.
        layer_scale (float): Start of the factors of the branch.
        drop_path (float): Probability of dropping the branch.
        downsample (nn.Module, optional): What precedes the block and halves
            the map.
    """

    def __init__(
        self,
        conv: nn.Conv2d,
        norm_cfg: dict,
        layer_scale: float,
        drop_path: float,
        downsample: Optional[nn.Module] = None,
    ) -> None:
        super().__init__()
        channels = conv.out_channels
        self.stride = 1 if downsample is None else 2
        self.downsample = downsample or nn.Identity()
        self.conv = conv
        self.norm = build_norm_layer(norm_cfg, channels)[1]
        self.mlp = TokenMLP(channels, 4 * channels)
        self.gamma = nn.Parameter(torch.full((channels,), layer_scale))
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(
        self,
        x: Tensor,
        context: Optional[Tensor] = None,
        valid: Optional[Tensor] = None,
    ) -> Tensor:
        """(N, C_in, H, W), context and valid sizes to (N, C, H', W').

        Without gradients ``x`` may be overwritten.
        """
        x = self.downsample(x)
        valid = halved(valid, self.stride)
        branch = _convolve(self.conv, x, context, valid).permute(0, 2, 3, 1)
        if runs_in_slices(self, x):
            # Hidden channels then stay in the cache.
            x = x.contiguous(memory_format=torch.channels_last)
            size = SLICE * torch.get_num_threads()
            channels = x.shape[1]
            rows = x.permute(0, 2, 3, 1).view(-1, channels)
            branch = branch.reshape(-1, channels)
            for part, more in zip(rows.split(size), branch.split(size)):
                part.addcmul_(self.mlp(self.norm(more)), self.gamma)
            return x
        branch = self.mlp(self.norm(branch)) * self.gamma
        return residual(x, self.drop_path(branch.permute(0, 3, 1, 2)))


class ContextualBottleneck(Bottleneck):
    """A bottleneck whose K x K convolution may be contextual.

    Its ``operator`` is a sequence of that convolution, a norm and an
    activation.

    Args:
        stride (int): That of the convolution.
        **kwargs: See :class:`~mmctx.models.layers.bottleneck.Bottleneck`.
    """

    def __init__(self, *args, stride: int = 1, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.stride = stride

    def forward(
        self,
        x: Tensor,
        context: Optional[Tensor] = None,
        valid: Optional[Tensor] = None,
    ) -> Tensor:
        """(N, C_in, H, W), context and valid sizes to (N, C, H', W')."""
        conv, norm, act = self.operator[0], self.operator[1], self.operator[2]
        branch = _convolve(conv, self.reduce(x), context, valid)
        branch, x = act(norm(branch)), self.shortcut(x)
        x = add_conv_norm(x, branch, self.expand, self.drop_path(x))
        return self.act(x)


class ContextualCNN(ContextBackbone):
    """What contextual ConvNeXts and ResNets share.

    After each stage but the last, a contextualizing layer scores the classes
    by the stage's map and merges the embeddings of the most likely ones into
    one vector per image. The contextual convolutions of the next stage
    follow that context.

    As the backbone of a detector (the default) it keeps the class
    embeddings, so their number stays that of the pre-training. The choice of
    classes passes no gradient, and without a loss on the scores, the score
    heads and the temperature get none: they are frozen, norms in evaluation
    mode, and should come from a pre-trained network. Embeddings, mergers and
    predictors learn. The scores of the last stage are not computed. With
    ``frozen_stages``, the mergers of frozen stages are frozen, too; the
    embeddings, which all stages share, are once no later stage needs them.

    Source: `Contextual Convolutional Networks
    <https://openreview.net/forum?id=PldynS56bN>`_, Sec. 3, Fig. 2; released
    code: https://github.com/aliyun/Contextual-Convolutional-Networks.

    Args:
        stage_channels (Sequence[int]): Channels of the four stage maps.
        conv_channels (Sequence[int]): Channels of the convolutions that may
            be contextual; a context has half as many.
        score_channels (Sequence[int]): Hidden channels of the score heads.
        depths (Sequence[int]): Blocks of the four stages.
        contextual_stages (Sequence[int]): Stages (0 to 3) with contextual
            convolutions (Table 6). What stage 0 receives is the merge of all
            classes, the same for every image. Defaults to (1, 2, 3).
        contextual_every (int): Of the blocks of such a stage, every n-th
            from the first is contextual. Defaults to 1.
        num_classes (int): Number of classes N_1. Defaults to 1000.
        class_counts (Sequence[int]): How many classes the first three
            stages leave for the next, N_2 to N_4. Defaults to
            (500, 200, 50).
        selection (str): 'rerank' picks them out of all classes anew, as
            released; 'reduce' out of those picked before, and predicts one
            of the last, as in the paper. Defaults to 'rerank'.
        embedding_dims (int): Dimensions d of a class embedding (Table 6).
            Defaults to 256.
        temperature (str): 'shared', 'stagewise', 'two' or 'fixed', see
            :class:`~mmctx.models.layers.contextualizing.
            ContextualizingLayers`. Defaults to 'shared'.
        start_scale (float): The factor of the cosines at the start,
            positive. The fewer the classes, the smaller it can be. Defaults
            to 1 / 0.07.
        use_context (bool): Give the contextual convolutions their context
            (Table 4). Without it there are score heads only in a classifier.
            Defaults to True.
        weight_offsets, sampling_offsets, mask (bool): What the contextual
            convolutions modulate (Table 5), see
            :class:`~mmctx.models.layers.ContextualConv2d`. Default to True.
        drop_without_context (bool): Stochastic depth only in blocks that are
            not contextual. Defaults to False.
        with_class_scores (bool): For a classifier: the returned tuple of
            maps also carries the class scores of all scored stages, see
            :class:`ScoredMaps`, and their heads learn. ``out_indices`` must
            hold the last stage. Defaults to False.
        scored_stages (Sequence[int], optional): Stages whose classes a
            classifier scores. Defaults to the last one and those before
            contextual stages.
        ignore_padding (bool): Leave the zeros that pad a batch of images of
            several sizes at the bottom and on the right out of all global
            means, so that a context does not depend on the batch. They are
            told from the image by their being zero in every channel.
            Defaults to False, as released.
        norm_cfg (dict, optional): Norm layers.
        drop_path_rate (float): Stochastic depth of the last block; it grows
            linearly from 0 at the first. Defaults to 0.
        in_channels, out_indices, frozen_stages, norm_eval, with_cp,
            init_cfg: See :class:`ContextBackbone`.

    Raises:
        ValueError: An argument is not one of the above.
    """

    key_map = staticmethod(keys.key_map)
    optional_keys = keys.CONTEXTUAL

    def __init__(
        self,
        stage_channels: Sequence[int],
        conv_channels: Sequence[int],
        score_channels: Sequence[int],
        depths: Sequence[int],
        norm_cfg: dict,
        in_channels: int = 3,
        contextual_stages: Sequence[int] = (1, 2, 3),
        contextual_every: int = 1,
        num_classes: int = 1000,
        class_counts: Sequence[int] = (500, 200, 50),
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
        out_indices: Union[int, Sequence[int]] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        drop_path_rate: float = 0.0,
        init_cfg: Optional[Union[dict, list]] = None,
    ) -> None:
        super().__init__(
            stage_channels,
            in_channels=in_channels,
            out_indices=out_indices,
            frozen_stages=frozen_stages,
            norm_eval=norm_eval,
            with_cp=with_cp,
            init_cfg=init_cfg,
        )
        self._check_classes(num_classes, class_counts, selection)
        if contextual_every < 1:
            raise ValueError(
                'contextual_every must be 1 or more, got '
                f'{contextual_every!r}.'
            )
        if with_class_scores and self.out_indices[-1] != NUM_STAGES - 1:
            raise ValueError(
                'with_class_scores needs the last stage among out_indices, '
                f'got {out_indices!r}.'
            )
        self.contextual_stages = self._resolve_stages(
            'contextual_stages', contextual_stages
        )
        self.contextual_every = contextual_every
        self.class_counts = tuple(class_counts)
        self.selection = selection
        self.with_class_scores = with_class_scores
        self.ignore_padding = ignore_padding
        self.norm_cfg = norm_cfg
        self.conv_cfg = dict(
            weight_offsets=weight_offsets,
            sampling_offsets=sampling_offsets,
            mask=mask,
            norm_cfg=norm_cfg,
        )
        contexts = {
            i: conv_channels[i] // 2
            for i in self.contextual_stages
            if use_context and i < self.num_stages
        }
        scored = self._scored_stages(contexts, scored_stages)
        self.stem = self._make_stem()
        # Stochastic depth is defined over the whole network, built or not.
        last = max(sum(depths) - 1, 1)
        for i in range(self.num_stages):
            start = sum(depths[:i])
            self.stages.append(
                nn.Sequential(
                    *(
                        self._make_stage_block(
                            i,
                            j,
                            contexts.get(i, 0),
                            drop_path_rate * (start + j) / last,
                            drop_without_context,
                        )
                        for j in range(depths[i])
                    )
                )
            )
        self.contextualizing = ContextualizingLayers(
            num_classes,
            embedding_dims,
            {i: (stage_channels[i], score_channels[i]) for i in scored},
            contexts,
            temperature,
            self.norm_cfg,
            start_scale,
        )
        self._finish_init()

    @staticmethod
    def _check_classes(
        num_classes: int, class_counts: Sequence[int], selection: str
    ) -> None:
        if len(class_counts) != NUM_STAGES - 1 or any(
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

    @staticmethod
    def _resolve_stages(name: str, given: Sequence[int]) -> tuple[int, ...]:
        if any(i not in range(NUM_STAGES) for i in given):
            raise ValueError(
                f'{name} must hold stages from 0 to {NUM_STAGES - 1}, got '
                f'{given!r}.'
            )
        return tuple(sorted({*given}))

    def _scored_stages(
        self, contexts: Iterable[int], given: Optional[Sequence[int]]
    ) -> list[int]:
        """Stages with a score head."""
        needed = {i - 1 for i in contexts if i > 0}
        if not self.with_class_scores:
            return sorted(needed)
        if given is None:
            before = {i - 1 for i in self.contextual_stages if i > 0}
            return sorted(before | {NUM_STAGES - 1})
        scored = self._resolve_stages('scored_stages', given)
        if not needed | {NUM_STAGES - 1} <= {*scored}:
            raise ValueError(
                'scored_stages must hold the last stage and those before '
                f'contextual ones, {sorted(needed | {NUM_STAGES - 1})}, got '
                f'{given!r}.'
            )
        return list(scored)

    def _make_stage_block(
        self,
        stage: int,
        index: int,
        context_channels: int,
        drop_path: float,
        drop_without_context: bool,
    ) -> nn.Module:
        contextual = (
            stage in self.contextual_stages
            and index % self.contextual_every == 0
        )
        if contextual and drop_without_context:
            drop_path = 0.0
        return self._make_block(
            stage, index, drop_path, contextual, context_channels
        )

    def _make_conv(
        self, contextual: bool, context_channels: int, *args, **kwargs
    ) -> nn.Conv2d:
        if not contextual:
            return nn.Conv2d(*args, **kwargs)
        return ContextualConv2d(
            *args,
            **kwargs,
            context_channels=context_channels,
            **self.conv_cfg,
        )

    def _make_stem(self) -> nn.Module:
        raise NotImplementedError

    def _make_block(
        self,
        stage: int,
        index: int,
        drop_path: float,
        contextual: bool,
        context_channels: int,
    ) -> nn.Module:
        raise NotImplementedError

    def _plain_modules(self) -> Iterable[nn.Module]:
        """All modules but those inside the predictors.

        The predictors keep PyTorch's initial values, zeros at their end.
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
                image inside a padded batch, integers in pixels: what is
                below and to the right is left out of global means. Defaults
                to what ``ignore_padding`` says.

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
        valid = halved(valid_sizes, STRIDES[0])
        x = self.stem(x)
        maps, scores, considered, picked = [], [], [], None
        for i, stage in enumerate(self.stages):
            context = self._context(i, picked, x.shape[0])
            for block in stage:
                x = self._run_block(block, x, context, valid)
                valid = halved(valid, block.stride)
            if i in self.out_indices:
                maps.append(x.contiguous())
            if str(i) in self.contextualizing.classify:
                considered.append(picked)
                scores.append(self._scores(i, x, valid))
                picked = self._pick(i, scores[-1], picked)
        if not self.with_class_scores:
            return tuple(maps)
        return ScoredMaps(maps, scores, considered, self.selection)

    def _context(
        self, stage: int, picked: Optional[Tensor], batch_size: int
    ) -> Optional[Tensor]:
        if str(stage) not in self.contextualizing.merge:
            return None
        if stage == 0:
            picked = None
        context = self.contextualizing.context(stage, picked, batch_size)
        return context.detach() if stage < self.frozen_stages else context

    def _scores(
        self, stage: int, x: Tensor, valid: Optional[Tensor]
    ) -> Tensor:
        # The choice of classes passes no gradient.
        x = x if self.with_class_scores else x.detach()
        scores = self.contextualizing.scores(stage, x, valid)
        return scores if self.with_class_scores else scores.detach()

    def _pick(
        self, stage: int, scores: Tensor, picked: Optional[Tensor]
    ) -> Optional[Tensor]:
        if stage == NUM_STAGES - 1:
            return None
        among = picked if self.selection == 'reduce' else None
        return considered_classes(scores, self.class_counts[stage], among)

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


@register(MODELS)
class ContextualConvNeXt(ContextualCNN):
    """ConvNeXt with contextual depth-wise convolutions.

    There is no norm behind the last stage: its score head has its own.

    Args:
        arch (str or dict): 'tiny', 'small' or 'base' as published, or a dict
            with ``depths`` and ``channels``, four numbers each. Defaults to
            'tiny'.
        contextual_every (int): See :class:`ContextualCNN`. Defaults to 3.
        layer_scale_init_value (float): Start of the factors of each branch.
            Defaults to 1e-6.
        norm_cfg (dict, optional): Layer norms of the blocks and of the maps
            in the predictors; those of vectors have PyTorch's own epsilon.
            Defaults to ``dict(type='LN', eps=1e-6)``.
        **kwargs: See :class:`ContextualCNN`.

    Example:
        >>> maps = ContextualConvNeXt('tiny')(torch.rand(2, 3, 224, 224))
        >>> [tuple(m.shape) for m in maps]
        [(2, 96, 56, 56), (2, 192, 28, 28), (2, 384, 14, 14), (2, 768, 7, 7)]
    """

    arch_settings = {
        'tiny': dict(depths=(3, 3, 9, 3), channels=(96, 192, 384, 768)),
        'small': dict(depths=(3, 3, 27, 3), channels=(96, 192, 384, 768)),
        'base': dict(depths=(3, 3, 27, 3), channels=(128, 256, 512, 1024)),
    }

    def __init__(
        self,
        arch: Union[str, dict] = 'tiny',
        contextual_every: int = 3,
        layer_scale_init_value: float = 1e-6,
        norm_cfg: Optional[dict] = None,
        **kwargs,
    ) -> None:
        arch = self._resolve_arch(arch)
        self.channels = arch['channels']
        self.layer_scale_init_value = layer_scale_init_value
        super().__init__(
            stage_channels=self.channels,
            conv_channels=self.channels,
            score_channels=self.channels,
            depths=arch['depths'],
            norm_cfg=self._resolve_norm_cfg(norm_cfg),
            contextual_every=contextual_every,
            **kwargs,
        )

    def _resolve_arch(self, arch: Union[str, dict]) -> dict:
        given = self.arch_settings.get(arch) if isinstance(arch, str) else arch
        if (
            not isinstance(given, dict)
            or {*given} != {'depths', 'channels'}
            or any(len(numbers) != NUM_STAGES for numbers in given.values())
            or any(depth < 1 for depth in given['depths'])
        ):
            raise ValueError(
                'ContextualConvNeXt arch must be one of '
                f'{list(self.arch_settings)}, or a dict with four positive '
                f"numbers in each of 'depths' and 'channels', got {arch!r}."
            )
        return given

    @staticmethod
    def _resolve_norm_cfg(norm_cfg: Optional[dict]) -> dict:
        norm_cfg = norm_cfg or dict(type='LN', eps=1e-6)
        if norm_cfg.get('type') != 'LN':
            raise ValueError(
                'ContextualConvNeXt normalises each pixel over its channels: '
                f"norm_cfg must be dict(type='LN', ...), got {norm_cfg!r}."
            )
        return norm_cfg

    def _make_stem(self) -> nn.Module:
        return PatchEmbedding(
            self.in_channels, self.channels[0], STRIDES[0], self.norm_cfg
        )

    def _make_block(
        self,
        stage: int,
        index: int,
        drop_path: float,
        contextual: bool,
        context_channels: int,
    ) -> nn.Module:
        channels = self.channels[stage]
        conv = self._make_conv(
            contextual,
            context_channels,
            channels,
            channels,
            7,
            padding=3,
            groups=channels,
        )
        downsample = None
        if stage > 0 and index == 0:
            downsample = Downsample(
                self.channels[stage - 1], channels, self.norm_cfg
            )
        return ConvNeXtBlock(
            conv,
            self.norm_cfg,
            self.layer_scale_init_value,
            drop_path,
            downsample,
        )

    def _reset_parameters(self) -> None:
        for module in self._plain_modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


@register(MODELS)
class ContextualResNet(ContextualCNN):
    """ResNet whose 3 x 3 convolutions are contextual.

    In training, batch norms over one vector per image need two or more
    images, and many more to be of use.

    Args:
        depth (int or Sequence[int]): 50 as published, 14, 26 or 101, or the
            number of blocks in each of the four stages. Defaults to 50.
        stem_channels (int): Channels of the stem. Defaults to 64.
        base_channels (int): Width of the first stage's bottlenecks, doubled
            from stage to stage; stage i returns 4 * base_channels * 2**i
            channels. Defaults to 64.
        contextual_every (int): See :class:`ContextualCNN`. Defaults to 2.
        norm_cfg (dict, optional): Norm layers, those of vectors included;
            the mergers have layer norms. Defaults to ``dict(type='BN')``.
        **kwargs: See :class:`ContextualCNN`.

    Example:
        >>> maps = ContextualResNet(depth=50)(torch.rand(2, 3, 224, 224))
        >>> [tuple(m.shape) for m in maps]
        [(2, 256, 56, 56), (2, 512, 28, 28), (2, 1024, 14, 14), (2, 2048, 7, 7)]
    """  # noqa: E501

    arch_settings = {
        14: (1, 1, 1, 1),
        26: (2, 2, 2, 2),
        50: (3, 4, 6, 3),
        101: (3, 4, 23, 3),
    }
    expansion = 4

    def __init__(
        self,
        depth: Union[int, Sequence[int]] = 50,
        stem_channels: int = 64,
        base_channels: int = 64,
        contextual_every: int = 2,
        norm_cfg: Optional[dict] = None,
        **kwargs,
    ) -> None:
        self.widths = [base_channels * 2**i for i in range(NUM_STAGES)]
        self.stem_channels = stem_channels
        super().__init__(
            stage_channels=[self.expansion * w for w in self.widths],
            conv_channels=self.widths,
            score_channels=self.widths,
            depths=resolve_depth(
                type(self).__name__, depth, self.arch_settings
            ),
            norm_cfg=norm_cfg or dict(type='BN'),
            contextual_every=contextual_every,
            **kwargs,
        )

    def _make_stem(self) -> nn.Module:
        return conv_norm(
            self.in_channels, self.stem_channels, 7, 2, self.norm_cfg,
            nn.ReLU(inplace=True), nn.MaxPool2d(3, stride=2, padding=1),
        )  # fmt: skip

    def _make_block(
        self,
        stage: int,
        index: int,
        drop_path: float,
        contextual: bool,
        context_channels: int,
    ) -> nn.Module:
        width = self.widths[stage]
        out_channels = self.expansion * width
        in_channels, stride, shortcut = out_channels, 1, nn.Identity()
        if index == 0:
            stride = 1 if stage == 0 else 2
            in_channels = (
                self.stem_channels
                if stage == 0
                else self.expansion * self.widths[stage - 1]
            )
            shortcut = conv_norm(
                in_channels, out_channels, 1, stride, self.norm_cfg
            )
        operator = conv_norm(
            width, width, 3, stride, self.norm_cfg, nn.ReLU(inplace=True)
        )
        operator[0] = self._make_conv(
            contextual,
            context_channels,
            width,
            width,
            3,
            stride,
            padding=1,
            bias=False,
        )
        return ContextualBottleneck(
            in_channels,
            width,
            out_channels,
            operator,
            shortcut,
            self.norm_cfg,
            drop_path,
            stride=stride,
        )

    def _reset_parameters(self) -> None:
        for module in self._plain_modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(
                    module.weight, mode='fan_out', nonlinearity='relu'
                )
            elif isinstance(module, Bottleneck):
                # Every block starts as its shortcut.
                nn.init.zeros_(module.expand[1].weight)
