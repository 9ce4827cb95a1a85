"""The loss of Contextual CNN, over all its stages."""

from collections.abc import Sequence
from typing import NamedTuple, Optional

import torch
import torch.nn as nn
from torch import Tensor

from mmctx.registry import MODELS, register

#: Added to the loss of each stage by the release; it changes no gradient.
FLOOR = 1e-6


class Pair(NamedTuple):
    """The labels of an image and how they are mixed, for N images.

    Attributes:
        main (Tensor): Label (N, 1) with the larger share.
        mixed (Tensor): Label (N, 1) with the smaller share.
        share (Tensor): Share (N, 1) of the main label, 1 where it is alone.
        alive (Tensor): (N, 1) whether the main label is still considered.
    """

    main: Tensor
    mixed: Tensor
    share: Tensor
    alive: Tensor

    @classmethod
    def of_labels(cls, labels: Tensor) -> 'Pair':
        """From labels (N,) that are not mixed."""
        label = labels.unsqueeze(1)
        whole = torch.ones_like(label)
        return cls(label, label, whole.float(), whole.bool())

    @classmethod
    def of_targets(cls, target: Tensor, smoothed: Tensor) -> 'Pair':
        """From mixed targets (N, classes), before and after smoothing."""
        main, mixed = target.topk(2, dim=1).indices.split(1, dim=1)
        share = _share(smoothed.gather(1, main), smoothed.gather(1, mixed))
        alone = target.gather(1, mixed) <= 0
        share = share.masked_fill(alone, 1.0)
        return cls(main, mixed, share, torch.ones_like(alone))

    def among(self, considered: Tensor) -> 'Pair':
        """The labels that remain within a mask (N, classes) of classes.

        An image that loses its main label is out for good; one that loses its
        mixed label keeps the main one alone.
        """
        lost = ~considered.gather(1, self.mixed)
        return self._replace(
            share=self.share.masked_fill(lost, 1.0),
            alive=self.alive & considered.gather(1, self.main),
        )

    def after(self, smoothing: float, count: Tensor) -> 'Pair':
        """Shares as read off the smoothed target over ``count`` classes."""
        off = smoothing / count.to(self.share.dtype)
        on = 1 - smoothing + off
        main = self.share * on + (1 - self.share) * off
        mixed = self.share * off + (1 - self.share) * on
        share = _share(main, mixed).masked_fill(self.share >= 1, 1.0)
        return self._replace(share=share)


def _share(main: Tensor, mixed: Tensor) -> Tensor:
    return main / (main + mixed)


def _cross_entropy(
    scores: Tensor, considered: Tensor, pair: Pair, smoothing: float
) -> Tensor:
    """Cross entropy (N, 1) over the considered classes, labels smoothed.

    Eq. 1, without its indicator.
    """
    count = considered.sum(1, keepdim=True)
    total = scores.masked_fill(~considered, -torch.inf)
    # Keep the rest finite, too: its product with zero must not be NaN.
    scores = scores.masked_fill(~considered, 0.0)
    log_prob = scores - total.logsumexp(1, keepdim=True)
    main, mixed = log_prob.gather(1, pair.main), log_prob.gather(1, pair.mixed)
    of_labels = pair.share * main + (1 - pair.share) * mixed
    of_all = (log_prob * considered).sum(1, keepdim=True) / count
    return -(1 - smoothing) * of_labels - smoothing * of_all


def _mean(losses: Tensor, alive: Tensor) -> Tensor:
    """Mean over the images that count; 0 if none does."""
    alive = alive.to(losses.dtype)
    return (losses * alive).sum() / alive.sum().clamp(min=1)


@register(MODELS)
class ProgressiveLoss(nn.Module):
    r"""Cross entropy at each stage, over the classes it considers.

    .. math:: L = \alpha (L_1 + L_2 + L_3) + L_4

    (Eq. 2), where :math:`L_i` is the mean over images of the cross entropy
    over the classes that the stage before picked (Eq. 1); images whose label
    is not among them are left out.

    Labels: with ``selection='rerank'``, the network of the release, no class
    is ever dropped, and hard labels give plain cross entropy over all
    classes. With 'reduce', dropped classes score minus infinity, and labels
    follow Eq. 1.

    Mixed targets (of Mixup or CutMix): the first stage takes them over all
    classes. Later stages consider the picked classes only, of which they
    take the two labels of the mix. An image that has lost the label with the
    larger share is left out from then on; one that has lost the other goes on
    with one label. (The release intends the same, but compares ranks with the
    number of all classes, so that a lost label raises an index error.)

    Source: `Contextual Convolutional Networks
    <https://openreview.net/forum?id=PldynS56bN>`_, Sec. 3.1, Eq. 1 and 2;
    smoothing, and the rule for mixed targets, from the released code.

    Args:
        alpha (float): Weight of every stage but the last, which has 1.
            Defaults to 0.15.
        label_smooth (float): Label smoothing at every stage: this much of a
            target is spread evenly over the considered classes. It is
            also applied to mixed targets, which should come without any.
            Defaults to 0.

    Raises:
        ValueError: ``label_smooth`` is not in [0, 1).
    """

    def __init__(self, alpha: float = 0.15, label_smooth: float = 0.0) -> None:
        super().__init__()
        if not 0 <= label_smooth < 1:
            raise ValueError(
                f'label_smooth must be in [0, 1), got {label_smooth!r}.'
            )
        self.alpha = alpha
        self.label_smooth = label_smooth

    def forward(
        self,
        scores: Sequence[Tensor],
        target: Tensor,
        considered: Optional[Sequence[Optional[Tensor]]] = None,
    ) -> Tensor:
        """The sum of :meth:`stage_losses`, a scalar."""
        losses = self.stage_losses(scores, target, considered)
        return torch.stack(losses).sum()

    def stage_losses(
        self,
        scores: Sequence[Tensor],
        target: Tensor,
        considered: Optional[Sequence[Optional[Tensor]]] = None,
    ) -> list[Tensor]:
        """Weighted loss of each stage.

        Args:
            scores (Sequence[Tensor]): Scores (N, classes) of each stage, in
                the order of the classes, divided by tau; minus infinity for
                dropped classes.
            target (Tensor): Labels (N,), integers, or mixed targets
                (N, classes) that sum to 1.
            considered (Sequence[Tensor], optional): For each stage the mask
                (N, classes) of the classes that mixed targets consider, None
                for all. Defaults to all that are not dropped.

        Returns:
            list[Tensor]: One scalar per stage; their sum is the loss.

        Raises:
            ValueError: The target's shape does not fit the scores, or
                ``considered`` has the wrong length.
        """
        considered = considered or [None] * len(scores)
        self._check(scores, target, considered)
        mixed = target.dim() == 2
        if mixed:
            whole = target.to(scores[0].dtype)
            smooth = self.label_smooth
            smoothed = (1 - smooth) * whole + smooth / whole.shape[1]
            pair = Pair.of_targets(whole, smoothed)
        else:
            pair = Pair.of_labels(target)
        losses = []
        for i, (score, mask) in enumerate(zip(scores, considered)):
            if mixed and i == 0:
                loss = -(score.log_softmax(1) * smoothed).sum(1).mean()
            else:
                if mask is None or not mixed:
                    mask = score > -torch.inf
                pair = pair.among(mask)
                loss = self._stage_loss(score, mask, pair)
                if mixed:
                    count = mask.sum(1, keepdim=True)
                    pair = pair.after(self.label_smooth, count)
            weight = self.alpha if i < len(scores) - 1 else 1.0
            losses.append(weight * (loss + FLOOR))
        return losses

    def _stage_loss(self, score: Tensor, mask: Tensor, pair: Pair) -> Tensor:
        losses = _cross_entropy(score, mask, pair, self.label_smooth)
        return _mean(losses, pair.alive)

    @staticmethod
    def _check(
        scores: Sequence[Tensor],
        target: Tensor,
        considered: Sequence[Optional[Tensor]],
    ) -> None:
        shape = tuple(scores[0].shape)
        if tuple(target.shape) not in (shape, shape[:1]):
            raise ValueError(
                f'The target must hold labels {shape[:1]} or mixed targets '
                f'{shape} for scores of shape {shape}, got '
                f'{tuple(target.shape)}.'
            )
        if len(considered) != len(scores):
            raise ValueError(
                'considered must hold a mask or None for each of the '
                f'{len(scores)} stages, got {len(considered)}.'
            )
