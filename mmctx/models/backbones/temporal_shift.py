"""Temporal shift: a backbone for images that sees neighbouring frames."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from mmctx.models.layers.bottleneck import Bottleneck
from mmctx.registry import MODELS, register


def shift_frames(x: Tensor, num_segments: int, shift_div: int = 8) -> Tensor:
    """Take some channels from the next frame, as many from the previous one.

    Source: `TSM: Temporal Shift Module for Efficient Video Understanding
    <https://arxiv.org/abs/1811.08383>`_, Sec. 3 and 4, in its offline form.

    Args:
        x (Tensor): Feature maps (N * T, C, H, W), the T frames of a clip one
            after the other.
        num_segments (int): Number of frames T.
        shift_div (int): The first C // shift_div channels come from the next
            frame, as many after them from the one before; zeros where there
            is none. Defaults to 8.

    Returns:
        Tensor: (N * T, C, H, W).

    Raises:
        ValueError: The feature maps are not those of whole clips.
    """
    if x.shape[0] % num_segments:
        raise ValueError(
            f'A temporal shift over num_segments={num_segments} frames needs '
            f'a batch of whole clips, (N * {num_segments}, C, H, W), got '
            f'{tuple(x.shape)}.'
        )
    clip = x.unflatten(0, (-1, num_segments))
    fold = x.shape[1] // shift_div
    later, earlier, still = clip.split(
        (fold, fold, x.shape[1] - 2 * fold), dim=2
    )
    later = F.pad(later[:, 1:], (0, 0, 0, 0, 0, 0, 0, 1))
    earlier = F.pad(earlier[:, :-1], (0, 0, 0, 0, 0, 0, 1, 0))
    return torch.cat((later, earlier, still), dim=2).flatten(0, 1)


class _Shifted(nn.Sequential):
    """The same layers, after a temporal shift."""

    def __init__(
        self, layers: nn.Sequential, num_segments: int, shift_div: int
    ) -> None:
        super().__init__(*layers)
        self.num_segments = num_segments
        self.shift_div = shift_div

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(
            shift_frames(x, self.num_segments, self.shift_div)
        )

    def extra_repr(self) -> str:
        return f'num_segments={self.num_segments}, shift_div={self.shift_div}'


@register(MODELS, 'TemporalShift')
def build_temporal_shift(
    backbone: dict, num_segments: int = 16, shift_div: int = 8
) -> nn.Module:
    """Build ``backbone=dict(type='TemporalShift', ...)``.

    The backbone itself, with a shift at the start of the residual branch of
    every bottleneck. Parameter names stay, so weights of the image backbone
    load; its arguments and other properties stay, too. Each frame has its own
    context.

    Source: `Contextual Convolutional Networks
    <https://openreview.net/forum?id=PldynS56bN>`_, Sec. 4.2 (Kinetics-400),
    and TSM, see :func:`shift_frames`.

    Args:
        backbone (dict or nn.Module): A backbone with bottlenecks, such as
            ``dict(type='ContextualResNet', depth=50)``. It takes images
            (N * T, C, H, W), the frames of a clip one after the other.
        num_segments (int): Number of frames T. Defaults to 16.
        shift_div (int): See :func:`shift_frames`. Defaults to 8.

    Returns:
        nn.Module: The backbone.

    Raises:
        ValueError: There is no bottleneck in the backbone, or one of the
            arguments is out of range.
    """
    if num_segments < 1 or shift_div < 2:
        raise ValueError(
            'TemporalShift needs num_segments of 1 or more and shift_div of '
            f'2 or more, got {num_segments!r} and {shift_div!r}.'
        )
    if isinstance(backbone, dict):
        backbone = MODELS.build(backbone)
    blocks = [m for m in backbone.modules() if isinstance(m, Bottleneck)]
    if not blocks:
        raise ValueError(
            'TemporalShift shifts the residual branches of bottlenecks, and '
            f'{type(backbone).__name__} has none. Give it a ContextualResNet '
            'or another ResNet of mmctx.'
        )
    for block in blocks:
        block.reduce = _Shifted(block.reduce, num_segments, shift_div)
    return backbone
