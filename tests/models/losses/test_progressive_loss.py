"""Eq. 1 and 2 of Contextual CNN, and what the release adds to them.

Its own values are compared in test_parity.py.
"""

import pytest
import torch
import torch.nn.functional as F

from mmctx.models.layers.contextualizing import considered_classes
from mmctx.models.losses import ProgressiveLoss

CLASSES = 12
COUNTS = (7, 4, 2)
SMOOTHING = pytest.mark.parametrize('smoothing', [0.0, 0.1])


def make_scores(seed, images=6):
    generator = torch.Generator().manual_seed(seed)
    shape = (4, images, CLASSES)
    return list(3 * torch.randn(shape, generator=generator).double())


def make_masks(scores):
    counts = zip(scores, COUNTS)
    return [None, *(considered_classes(s, count) for s, count in counts)]


def reduce(scores):
    """Scores of a network whose dropped classes stay dropped."""
    reduced, masks = [scores[0]], [None]
    for score, count in zip(scores[1:], COUNTS):
        masks.append(considered_classes(reduced[-1], count))
        reduced.append(score.masked_fill(~masks[-1], -torch.inf))
    return reduced, masks


def scores_and_masks(seed, selection):
    scores = make_scores(seed)
    if selection == 'reduce':
        return reduce(scores)
    return scores, make_masks(scores)


def make_mix(seed, images=6):
    """Mixed targets, some of two equal labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (images, 2), generator=generator)
    share = 0.5 + torch.rand(images, 1, generator=generator).double() / 2
    target = torch.zeros(images, CLASSES).double()
    target.scatter_add_(1, labels[:, :1], share)
    target.scatter_add_(1, labels[:, 1:], 1 - share)
    return target


def by_hand(scores, target, masks, smoothing):
    """The rule for mixed targets, one image and one class after the other.

    Also how many images each stage leaves out, and how many have lost their
    second label.
    """
    out = target.shape[0] * [False]
    shares = []
    for row in target:
        (v, w), (main, mixed) = (t.tolist() for t in row.topk(2))
        v = (1 - smoothing) * v + smoothing / CLASSES
        alone = w == 0
        w = (1 - smoothing) * w + smoothing / CLASSES
        shares.append((main, mixed, 1.0 if alone else v / (v + w)))
    losses, single = [], 0
    for i, (score, mask) in enumerate(zip(scores, masks)):
        terms = []
        for n, row in enumerate(score):
            classes = range(CLASSES)
            if i > 0:
                classes = mask[n].nonzero().flatten().tolist()
            log_prob = dict(zip(classes, row[classes].log_softmax(0)))
            smoothed = dict.fromkeys(classes, smoothing / len(classes))
            if i == 0:
                for c in classes:
                    smoothed[c] += (1 - smoothing) * target[n, c].item()
            else:
                main, mixed, share = shares[n]
                out[n] = out[n] or main not in classes
                if out[n]:
                    continue
                if mixed not in classes:
                    share = 1.0
                smoothed[main] += (1 - smoothing) * share
                if share < 1:
                    smoothed[mixed] += (1 - smoothing) * (1 - share)
                    share = smoothed[main] / (smoothed[main] + smoothed[mixed])
                else:
                    single += 1
                shares[n] = main, mixed, share
            terms.append(-sum(smoothed[c] * log_prob[c] for c in classes))
        mean = sum(terms) / len(terms) if terms else torch.tensor(0.0)
        losses.append((1 if i == 3 else 0.15) * (mean.item() + 1e-6))
    return losses, sum(out), single


@SMOOTHING
@pytest.mark.parametrize('selection', ['rerank', 'reduce'])
def test_mixed_targets_at_any_rank(smoothing, selection):
    """Labels anywhere in the ranking, most of them lost on the way."""
    criterion = ProgressiveLoss(label_smooth=smoothing)
    left_out = single = 0
    for seed in range(40):
        (scores, masks), target = (
            scores_and_masks(seed, selection),
            make_mix(seed),
        )
        expected, lost, alone = by_hand(scores, target, masks, smoothing)
        losses = criterion.stage_losses(scores, target, masks)
        assert [v.item() for v in losses] == pytest.approx(expected, rel=1e-9)
        left_out, single = left_out + lost, single + alone
    assert left_out > 40 and single > 40, 'both rules were needed'


@SMOOTHING
def test_one_label_is_a_mix_with_nothing(smoothing):
    """Mixed targets of one label each equal the labels themselves."""
    criterion = ProgressiveLoss(label_smooth=smoothing)
    for seed in range(10):
        scores = make_scores(seed)
        labels = torch.randint(CLASSES, (6,))
        one_hot = F.one_hot(labels, CLASSES).double()
        reduced, masks = reduce(scores)
        torch.testing.assert_close(
            criterion(reduced, one_hot, masks),
            criterion(reduced, labels, masks),
        )
        torch.testing.assert_close(
            criterion(scores, one_hot), criterion(scores, labels)
        )


@SMOOTHING
def test_labels_when_no_class_is_dropped(smoothing):
    """Plain cross entropy over all classes at every stage."""
    scores, labels = make_scores(0), torch.tensor([0, 3, 5, 7, 9, 11])
    expected = [
        alpha
        * (F.cross_entropy(s, labels, label_smoothing=smoothing).item() + 1e-6)
        for alpha, s in zip((0.3, 0.3, 0.3, 1), scores)
    ]
    criterion = ProgressiveLoss(alpha=0.3, label_smooth=smoothing)
    for masks in (None, make_masks(scores)):
        losses = criterion.stage_losses(scores, labels, masks)
        assert [v.item() for v in losses] == pytest.approx(expected)
        assert criterion(scores, labels, masks).item() == pytest.approx(
            sum(expected)
        )


def test_labels_among_fewer_and_fewer_classes():
    """Eq. 1: a label that was dropped counts no more."""
    scores, masks = scores_and_masks(1, 'reduce')
    labels = torch.tensor([2, 4, 6, 8, 10, 1])
    losses = ProgressiveLoss(alpha=1.0).stage_losses(scores, labels, masks)
    for i, (score, mask) in enumerate(zip(scores, masks)):
        terms = [
            -score[n][mask[n]].log_softmax(0)[mask[n][:y].sum()]
            if mask is not None
            else F.cross_entropy(score[n], y)
            for n, y in enumerate(labels)
            if mask is None or mask[n, y]
        ]
        mean = torch.stack(terms).mean() if terms else torch.tensor(0.0)
        assert losses[i].item() == pytest.approx(mean.item() + 1e-6), i


def test_lost_labels_give_no_gradient():
    scores = [s.requires_grad_() for s in make_scores(2)]
    masks = make_masks(scores)
    lowest = torch.stack([s.argmin() for s in scores[0]])
    target = F.one_hot(lowest, CLASSES).double()
    ProgressiveLoss()(scores, target, masks).backward()
    assert scores[0].grad.abs().sum() > 0
    for score in scores[1:]:
        assert torch.equal(score.grad, torch.zeros_like(score))


@pytest.mark.parametrize('selection', ['rerank', 'reduce'])
@pytest.mark.parametrize('mixed', [False, True])
def test_gradients(selection, mixed):
    scores = make_scores(3)
    masks = scores_and_masks(3, selection)[1]
    labels = torch.stack([s.argmax() for s in scores[0]])
    target = make_mix(3) if mixed else labels
    criterion = ProgressiveLoss(label_smooth=0.1)

    def loss(*scores):
        if selection == 'reduce':
            scores = [
                s if m is None else s.masked_fill(~m, -torch.inf)
                for s, m in zip(scores, masks)
            ]
        return criterion(scores, target, masks)

    assert torch.autograd.gradcheck(loss, [s.requires_grad_() for s in scores])


@pytest.mark.parametrize('mixed', [False, True])
def test_reads_no_value_back(mixed):
    """On a device without values, whatever asks for one fails."""
    scores = [torch.empty(6, CLASSES, device='meta') for _ in range(4)]
    mask = torch.empty(6, CLASSES, device='meta', dtype=torch.bool)
    target = torch.empty(6, device='meta', dtype=torch.long)
    if mixed:
        target = torch.empty(6, CLASSES, device='meta')
    masks = [None, mask, mask, mask]
    loss = ProgressiveLoss(label_smooth=0.1)(scores, target, masks)
    assert loss.shape == ()


def test_one_stage():
    """A network without contextual stages has an ordinary classifier."""
    (scores, *_), labels = make_scores(4), torch.arange(6)
    loss = ProgressiveLoss()([scores], labels)
    expected = F.cross_entropy(scores, labels).item() + 1e-6
    assert loss.item() == pytest.approx(expected)


def test_wrong_arguments():
    scores = make_scores(5)
    with pytest.raises(ValueError, match=r'label_smooth .* got 1'):
        ProgressiveLoss(label_smooth=1)
    with pytest.raises(ValueError, match=r'\(6,\) or mixed.*got \(5,\)'):
        ProgressiveLoss()(scores, torch.zeros(5).long())
    with pytest.raises(ValueError, match='4 stages, got 2'):
        ProgressiveLoss()(scores, torch.zeros(6).long(), [None, None])
