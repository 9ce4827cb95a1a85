"""What is drawn is what the layers compute: they are rebuilt from it."""

import pytest
import torch
import torch.nn.functional as F

from mmctx.models.layers import CoTLayer
from mmctx.visualization import (
    context_layers,
    context_rows,
    contexts,
    feature_rows,
    record,
    replay,
)
from tests.helpers.backbones import TINY, build_tiny

#: Odd, and no multiple of a window.
SIZE = 65, 33
PIXELS = [(0, 0), (2, 1)]


def build(name, **overrides):
    """In float64, with nothing at zero but the biases of what is drawn."""
    torch.manual_seed(0)
    model = build_tiny(name, **overrides).double().eval()
    for key, parameter in model.named_parameters():
        if key.endswith('bias') and ('static' in key or '_encoding' in key):
            torch.nn.init.zeros_(parameter)
        elif not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def calls_in(name, kind, **overrides):
    """Layers of a class in a tiny network, and their calls."""
    model = build(name, **overrides)
    layers = [m for m in context_layers(model).values() if isinstance(m, kind)]
    with record(*layers) as calls:
        model(torch.randn(1, 3, *SIZE, dtype=torch.double))
    assert layers
    return [(layer, call) for layer in layers for call in calls[layer]]


def check(*pair):
    torch.testing.assert_close(*pair, rtol=1e-8, atol=1e-8)


@pytest.fixture(autouse=True)
def inference():
    with torch.no_grad():
        yield


@pytest.mark.parametrize('name', ['CoTNet', 'CoTNeXt'])
def test_cot(name):
    for layer, call in calls_in(name, CoTLayer):
        share, dynamic, static = contexts.fused_contexts(layer, call)
        check(share * dynamic + (1 - share) * static, call.output[0])
        value, aggregated = replay(
            layer, call, layer.value, layer.dynamic_norm
        )
        side, reach = layer.kernel_size, layer.kernel_size // 2
        padded = F.pad(value.output[0], (reach,) * 4)
        for y, x in PIXELS:
            panels, level = contexts.cot(layer, call, y, x)
            near, by_group, part = (panel.values for panel in panels[:3])
            window = padded[:, y : y + side, x : x + side].flatten(1)
            # Channels c, c + G, c + 2 G, ... share an attention matrix.
            groups = len(by_group) // layer.GROUPS
            weights = by_group.unflatten(0, (layer.GROUPS, groups))
            window = window.unflatten(0, (layer.GROUPS, -1, groups))
            out = (weights[:, None] * window).sum(-1).flatten()
            check(out, aggregated.args[0][0, :, y, x])
            centre = by_group.abs().mean(0)[side**2 // 2]
            check(near[y, x], centre)
            assert near.isfinite().sum() <= side**2
            assert part.min() >= 0 and part.max() <= 1
        assert level == pytest.approx(share.mean().item())


@pytest.mark.parametrize('context', ['static', 'dynamic', 'linear'])
def test_cot_without_fusion(context):
    layer = CoTLayer(16, context=context).eval()
    with record(layer) as calls:
        layer(torch.randn(1, 16, 5, 7))
    panels, level = contexts.cot(layer, *calls[layer], 1, 2)
    assert len(panels) == (0 if context == 'static' else 2)
    assert level is None


@pytest.mark.parametrize(
    'name, overrides',
    [
        ('ConTNet', {}),
        ('ConTNet', dict(pad_mask=False, position='2d_image')),
        ('ConTNet relative', {}),
    ],
)
def test_contnet(name, overrides):
    kind = contexts.PatchwiseTransformerEncoder
    for layer, call in calls_in(name, kind, **overrides):
        with record(layer.attention, layer.attention.qkv) as inner:
            layer(*call.args)
        pairs = [
            (v.unflatten(2, (layer.attention.num_heads, -1)), out.output[0])
            for out, qkv in zip(*inner.values())
            for v in [qkv.output[0].chunk(3, -1)[2].flatten(1, 2)]
        ]
        height, width = call.output.shape[2:]
        for y, x in [*PIXELS, (height - 1, width - 1)]:
            weights = contexts.window_attention(layer, call, y, x)
            place = y % layer.patch_size, x % layer.patch_size
            matches = 0
            for v, out in pairs:
                if out.shape[1:3] != weights.shape[1:]:
                    continue
                mixed = torch.einsum('ml,blmd->bmd', weights.flatten(1), v)
                mixed = layer.attention.proj(mixed.flatten(1))
                error = (mixed - out[:, place[0], place[1]]).norm(dim=1)
                matches += (error < 1e-8).sum().item()
            assert matches == 1
            panels, _ = contexts.contnet(layer, call, y, x)
            drawn = panels[0].values
            top, left = (p - p % layer.patch_size for p in (y, x))
            rows, columns = drawn.isfinite().nonzero().T
            assert rows.min() == top and columns.min() == left
            if layer.pad_mask:
                check(drawn[drawn.isfinite()].sum(), drawn.new_ones(()))


@pytest.mark.parametrize(
    'name, overrides',
    [
        ('ContextualConvNeXt', dict(output_stride=8)),
        ('ContextualResNet', {}),
        ('ContextualResNet reduce', {}),
    ],
)
def test_contextual_cnn(name, overrides):
    for layer, call in calls_in(name, contexts.ContextualConv2d, **overrides):
        x_in, height, width = call.args[0], *call.args[0].shape[2:]
        kernel, delta = layer.weight.flatten(2), 0
        if layer.weight_predictor is not None:
            (made,) = replay(layer, call, layer.weight_predictor)
            delta = made.output[0].unflatten(0, layer.weight_predictor.shape)
            delta = delta.expand_as(layer.weight).flatten(2)
        for y, x in PIXELS:
            points, mask, steps = contexts.sampling_points(layer, call, y, x)
            extent = points.new_tensor([width, height])
            grid = ((2 * points + 1) / extent - 1)[None, None]
            sampled = F.grid_sample(x_in, grid, align_corners=False)
            sampled = sampled[0, :, 0] * mask
            sampled = sampled.unflatten(0, (layer.groups, -1))
            weight = (kernel + delta).unflatten(0, (layer.groups, -1))
            out = torch.einsum('gct,goct->go', sampled, weight).flatten()
            out = out if layer.bias is None else out + layer.bias
            check(out, call.output[0, :, y, x])
            assert steps.shape == call.output.shape[2:]
        panels, level = contexts.contextual_cnn(layer, call, 1, 1)
        if layer.weight_predictor is not None:
            assert level == pytest.approx(delta.norm() / kernel.norm())
            assert len(panels) == 4


@pytest.mark.parametrize(
    'name, overrides',
    [
        ('Container', {}),
        ('Container full', {}),
        ('Container full', dict(aggregation=dict(static_heads=1))),
    ],
)
def test_container(name, overrides):
    for layer, call in calls_in(
        name, contexts.ContextAggregation, **overrides
    ):
        for y, x in PIXELS:
            values, rows = contexts.affinities(layer, call, y, x)
            whole = [*rows.values()][-1]
            out = (whole * values).sum((1, 2))
            out = layer.project_out(out[None, :, None, None]).flatten()
            check(out, call.output[0, :, y, x])
            if layer.has_dynamic:
                sums = rows['dynamic'].sum((1, 2))
                check(sums, torch.ones_like(sums))
        panels, level = contexts.container(layer, call, y, x)
        assert len(panels) == len(rows)
        if 'mix' in rows:
            weights = layer.mixing_weight
            if len(weights) == 1:
                weights = weights.sigmoid(), 1 - weights.sigmoid()
            alpha, beta = weights
            check(whole, alpha * rows['dynamic'] + beta * rows['static'])
            assert level == pytest.approx(alpha.item())


def test_table_of_another_size():
    """Its resampling counts, too."""
    layer = contexts.ContextAggregation(4, static='mlp', size=(5, 4)).double()
    with record(layer) as calls:
        layer(torch.randn(1, 4, 6, 7, dtype=torch.double))
    (call,) = calls[layer]
    values, rows = contexts.affinities(layer, call, 2, 3)
    out = (rows['mix'] * values).sum((1, 2))
    out = layer.project_out(out[None, :, None, None]).flatten()
    check(out, call.output[0, :, 2, 3])


@pytest.mark.parametrize('co_scale', ['interpolation', 'none'])
def test_coat(co_scale):
    kinds = contexts.ConvAttention, contexts.ParallelBlock
    calls = calls_in('CoaT parallel', kinds, co_scale=co_scale)
    for layer, call in calls:
        if isinstance(layer, contexts.ParallelBlock):
            check_exchange(layer, call)
            continue
        for y, x in PIXELS:
            values, row = contexts.effective_attention(layer, call, y, x, True)
            out = layer.proj((row * values).sum(0))
            check(out, call.output[0][0, :, y, x])
            _, row = contexts.effective_attention(layer, call, y, x, False)
            # The channels of a head have the same weights.
            by_head = row.unflatten(1, layer.heads)
            check(by_head, by_head[..., :1].expand_as(by_head))
            (whole, *heads), _ = contexts.coat(layer, call, y, x)
            assert whole.values.shape == call.output[0].shape[2:]
            check(heads[1].values.flatten(), by_head[1:, 1, 0])


def check_exchange(block, call):
    """What a scale receives is what its feed-forward layers start from."""
    panels, level = contexts.coat_exchange(block, call, 0, 0)
    if not block.is_mixed:
        assert not panels and level is None
        return
    *tensors, stages = call.args
    for scale, panel in zip(block.outputs, panels):
        parts = contexts.exchanged(block, call, scale)
        own = tensors[2 * block.scales.index(scale)]
        own = stages[int(scale) - 1].position_encoding(own)[0]
        (feed,) = replay(block, call, block.feed[scale])
        check(own + sum(parts.values()), feed.args[0][0])
        norms = {s: part.norm(dim=0) for s, part in parts.items()}
        check(panel.values, 1 - norms[scale] / sum(norms.values()))
    assert 0 < level < 1


@pytest.mark.parametrize('name', sorted({*TINY} - {'SixthNet'}))
def test_rows_of_a_network(name):
    """A row per resolution; curves over all layers."""
    model = build(name).float()
    layers = context_layers(model)
    with record(*layers.values()) as calls:
        model(torch.randn(1, 3, *SIZE))
    # The lower right corner is inside the last pixel of each feature map.
    rows = context_rows(layers, calls, SIZE, (32.5, 64.5))
    assert len({name for name, _ in rows}) == len(rows)
    if name == 'CoaT parallel':
        assert [name for name, _ in rows] == [
            'stages.0.blocks.0.attention',
            *(f'parallel.1.attention.{scale}' for scale in '234'),
            'parallel.1',
            'all layers',
        ]
        assert rows[-1][1][0].values.shape == (2,)
    for _, panels in rows:
        for panel in panels:
            assert panel.values.isfinite().any()
            assert not panel.values.isinf().any()
            assert not panel.values.requires_grad


def test_cross_attention_of_scales_is_left_out():
    model = build('CoaT parallel', co_scale='cross_attention')
    layers = context_layers(model)
    with record(*layers.values()) as calls:
        model(torch.randn(1, 3, *SIZE, dtype=torch.double))
    rows = context_rows(layers, calls, SIZE, (3.0, 3.0))
    assert [name.split('.')[0] for name, _ in rows] == ['stages'] * 4


def test_regions_of_interest_are_left_out():
    layer = CoTLayer(16).eval()
    with record(layer) as calls:
        layer(torch.randn(3, 16, 16, 16))
        layer(torch.randn(1, 16, 7, 7))
    assert context_rows({'layer': layer}, calls, (64, 64), (0.0, 0.0)) == []
    with record(layer) as calls:
        layer(torch.randn(1, 16, 16, 16))
    rows = context_rows({'layer': layer}, calls, (64, 64), (0.0, 0.0))
    assert [name for name, _ in rows] == ['layer']


def test_feature_rows():
    x = torch.randn(1, 12, 17, 25)
    x[0, 5] *= 9
    token = torch.randn(1, 1, 12)
    ((name, panels),) = feature_rows([(x, token)], (65, 97), channels=2)
    assert name == '12 x 17 x 25'
    assert [p.title for p in panels][:2] == ['norm', 'channel 5']
    assert len(panels) == 3
    check(panels[0].values, x[0].norm(dim=0))
    # Channels may come last.
    last = feature_rows(x.permute(0, 2, 3, 1), (65, 97), channels=2)
    check(last[0][1][1].values, x[0, 5])
    assert feature_rows(torch.randn(1, 12, 5, 5), (65, 97)) == []
