"""Class scores and contexts of Contextual CNN."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmctx.models.layers import ContextualizingLayers
from mmctx.models.layers.contextualizing import (
    TEMPERATURES,
    considered_classes,
)

CLASSES, DIMS = 20, 16


def make_layers(temperature='shared', norm_cfg=None, **options):
    torch.manual_seed(0)
    layers = ContextualizingLayers(
        CLASSES,
        DIMS,
        heads={0: (8, 4), 1: (12, 6), 3: (12, 6)},
        contexts={0: 4, 1: 6, 2: 10},
        norm_cfg=norm_cfg or dict(type='BN'),
        class_counts=(9, 7, 5),
        temperature=temperature,
        **options,
    )
    nn.init.normal_(layers.embedding)
    return layers.eval()


def scores_of(layers, stage, x):
    return layers(stage, x)[0]


@pytest.mark.parametrize('temperature', TEMPERATURES)
def test_start_scale_is_a_factor_of_the_cosines(temperature):
    one, five = (
        make_layers(temperature, start_scale=scale).double()
        for scale in (1.0, 5.0)
    )
    five.load_state_dict(one.state_dict() | scales_of(five))
    x = torch.randn(3, 8, 5, 6).double()
    cosines = scores_of(one, 0, x)
    assert cosines.abs().max() <= 1
    torch.testing.assert_close(
        scores_of(five, 0, x), 5 * cosines, rtol=1e-6, atol=0
    )


def scales_of(layers):
    state = layers.state_dict()
    return {k: v for k, v in state.items() if k.startswith('log_scale')}


def test_scores_are_cosines_over_tau():
    layers = make_layers().double()
    x = torch.randn(3, 8, 5, 6).double()
    head = layers.classify['0']
    bn = head.norm
    hidden = F.batch_norm(
        head.fc1(x.mean((2, 3))),
        bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=bn.eps,
    )  # fmt: skip
    vector = head.fc2(hidden.relu())
    scores = scores_of(layers, 0, x)
    for n in range(3):
        for c in range(CLASSES):
            e = layers.embedding[c]
            cosine = vector[n] @ e / vector[n].norm() / e.norm()
            assert scores[n, c].item() == pytest.approx(cosine.item() / 0.07)


def test_scores_follow_the_order_of_the_classes():
    """In float64: sums over classes round differently in another order."""
    layers = make_layers().double()
    x = torch.randn(3, 12, 5, 6).double()
    scores, considered, context = layers(1, x)
    assert torch.equal(considered, considered_classes(scores, 7))
    order = torch.randperm(CLASSES)
    with torch.no_grad():
        layers.embedding.copy_(layers.embedding[order].clone())
    permuted = layers(1, x)
    torch.testing.assert_close(permuted[0], scores[:, order])
    assert torch.equal(permuted[1], considered[:, order])
    torch.testing.assert_close(permuted[2], context)


def test_context_merges_the_most_likely_classes():
    """As the paper writes it: for each image from its own classes."""
    layers = make_layers().double()
    scores, _, context = layers(1, torch.randn(3, 12, 5, 6).double())
    merger = layers.merge['2']
    for n in range(3):
        best = scores[n].sort(descending=True).indices[:7]
        rows = merger.norm1(merger.fc1(layers.embedding[best])).relu()
        expected = merger.norm2(merger.fc2(rows.mean(0))).relu()
        torch.testing.assert_close(context[n], expected)


def test_context_of_all_classes():
    """The first stage receives it; nothing scores the stem."""
    layers = make_layers().double()
    x = torch.randn(2, 3, 8, 8).double()
    scores, considered, context = layers(-1, x)
    assert scores is None and considered is None
    everything = torch.ones(2, CLASSES, dtype=torch.bool)
    torch.testing.assert_close(context, layers(-1, x, everything)[2])


def test_stages_without_a_head_keep_the_classes():
    layers = make_layers()
    considered = torch.rand(2, CLASSES) < 0.5
    scores, kept, context = layers(2, torch.randn(2, 12, 4, 4), considered)
    assert scores is None and context is None
    assert torch.equal(kept, considered)


def test_reduced_classes_score_minus_infinity():
    layers, x = make_layers(), torch.randn(3, 12, 5, 6)
    considered = considered_classes(torch.randn(3, CLASSES), 9)
    ranked, _, _ = layers(1, x, considered)
    layers.selection = 'reduce'
    scores, kept, _ = layers(1, x, considered)
    assert torch.equal(scores.isfinite(), considered)
    assert torch.equal(scores[considered], ranked[considered])
    assert torch.equal(kept, considered_classes(scores, 7))
    assert (kept <= considered).all()


def test_considered_classes():
    scores = torch.tensor([[0.1, 0.4, 0.3, 0.2], [4.0, 3.0, 2.0, 1.0]])
    assert considered_classes(scores, 2).tolist() == [
        [False, True, True, False],
        [True, True, False, False],
    ]


@pytest.mark.parametrize(
    'temperature, names',
    [
        ('shared', ['log_scale']),
        ('stagewise', [f'log_scale.{i}' for i in range(4)]),
        ('two', ['log_scale.0', 'log_scale.1']),
        ('fixed', []),
    ],
)
def test_temperatures(temperature, names):
    """As the released code's option of the same values."""
    layers = make_layers(temperature)
    state = layers.state_dict()
    assert [k for k in state if k.startswith('log_scale')] == names
    for name in names:
        assert state[name].item() == pytest.approx(math.log(1 / 0.07))
    x = torch.randn(2, 12, 4, 4)
    first, last = scores_of(layers, 1, x), scores_of(layers, 3, x)
    torch.testing.assert_close(first, scores_of(make_layers(), 1, x))
    if temperature in ('stagewise', 'two'):
        with torch.no_grad():
            layers.log_scale[-1].add_(math.log(2))
        torch.testing.assert_close(scores_of(layers, 1, x), first)
        torch.testing.assert_close(scores_of(layers, 3, x), 2 * last)


@pytest.mark.parametrize('temperature', ['shared', 'stagewise'])
def test_scales_without_dimensions_load(temperature):
    """As older checkpoints and the release hold them."""
    layers = make_layers(temperature).double()
    state = {
        k: v.squeeze() + 1 if k.startswith('log_scale') else v
        for k, v in layers.state_dict().items()
    }
    expected = (
        scores_of(layers, 1, x := torch.randn(2, 12, 4, 4).double()) * math.e
    )
    layers.load_state_dict(state)
    torch.testing.assert_close(scores_of(layers, 1, x), expected)
    assert all(p.dim() for p in layers.parameters())


def test_wrong_temperature():
    with pytest.raises(ValueError, match="'fixed'.*got 'warm'"):
        make_layers('warm')


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_scores_in_single_precision(dtype):
    layers = make_layers()
    x = torch.randn(2, 8, 4, 4).to(dtype)
    expected = scores_of(layers, 0, x.float())
    with torch.autocast('cpu', dtype=dtype):
        result = scores_of(layers, 0, x)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, expected)
    assert scores_of(layers.to(dtype), 0, x).dtype == torch.float32


def test_zero_features_are_no_nan():
    layers = make_layers()
    nn.init.zeros_(layers.classify['0'].fc2.weight)
    nn.init.zeros_(layers.classify['0'].fc2.bias)
    scores = scores_of(layers, 0, torch.randn(2, 8, 4, 4))
    assert torch.equal(scores, torch.zeros(2, CLASSES))
