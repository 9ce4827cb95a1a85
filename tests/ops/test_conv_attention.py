"""Forms of conv-attention for CPUs against the layers, which define them."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune

from mmctx.models.backbones.coat import FeedForward
from mmctx.models.layers import (
    ConvAttention,
    ConvPositionEncoding,
    ConvRelativePositionEncoding,
)
from mmctx.models.layers.mlp import TokenMLP
from mmctx.ops import reference
from mmctx.ops.add_mlp import cpu as add_mlp_cpu
from mmctx.ops.conv_attention import cpu

C = 24
CASES = {
    'position': (ConvPositionEncoding, ('x',)),
    'relative': (ConvRelativePositionEncoding, ('x', 'v')),
    'attention': (ConvAttention, ('x', 'token')),
    'encoded attention': (ConvAttention, ('x', 'token', 'encoding')),
    'feed forward': (
        lambda channels: FeedForward(channels, dict(type='LN'), 0.5),
        ('x', 'token', 'mlp'),
    ),
}
cases = pytest.mark.parametrize('case', CASES)


def prepared(case, size=(5, 7), images=2):
    torch.manual_seed(0)
    build, names = CASES[case]
    values = dict(
        x=torch.randn(images, C, *size),
        v=torch.randn(images, C, *size),
        token=torch.randn(images, 1, C),
        encoding=ConvRelativePositionEncoding(C).eval(),
        mlp=TokenMLP(C, 2 * C).eval(),
    )
    return build(C).eval(), [values[name] for name in names]


@pytest.fixture
def calls(monkeypatch):
    """One entry whenever a variant ran."""
    calls = []

    def count(module, name):
        original = getattr(module, name)
        monkeypatch.setattr(
            module,
            name,
            lambda *args, **kw: calls.append(name) or original(*args, **kw),
        )

    monkeypatch.setattr(cpu, 'F', SimpleNamespace(conv2d=F.conv2d, pad=F.pad))
    count(cpu.F, 'conv2d')
    count(cpu, '_softmax')
    count(add_mlp_cpu, '_add_rows')
    return calls


def tensors(out):
    return out if isinstance(out, tuple) else (out,)


def both_ways(layer, inputs):
    with torch.no_grad():
        fast = tensors(layer(*inputs))
        with reference():
            return fast, tensors(layer(*inputs))


@cases
@pytest.mark.parametrize('size', [(1, 1), (5, 7), (64, 33)])
@pytest.mark.parametrize(
    'memory_format', [torch.contiguous_format, torch.channels_last]
)
def test_against_the_layer(case, size, memory_format, calls):
    layer, inputs = prepared(case, size)
    inputs[0] = inputs[0].contiguous(memory_format=memory_format)
    before = [x.clone() for x in inputs if isinstance(x, torch.Tensor)]
    fast, expected = both_ways(layer, inputs)
    assert calls
    for a, b in zip(fast, expected):
        assert a.shape == b.shape
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    after = [x for x in inputs if isinstance(x, torch.Tensor)]
    assert all(torch.equal(a, b) for a, b in zip(before, after))


def parts(layer, inputs):
    """Every layer that holds parameters."""
    modules = [layer, *(m for m in inputs if isinstance(m, nn.Module))]
    return [
        part
        for module in modules
        for part in module.modules()
        if list(part.parameters(recurse=False))
    ]


@cases
def test_hooks_switch_it_off(case, calls):
    layer, inputs = prepared(case)
    for part in parts(layer, inputs):
        seen = []
        handle = part.register_forward_hook(
            lambda *args, seen=seen: seen.append(1)
        )
        fast, expected = both_ways(layer, inputs)
        handle.remove()
        # Pixels and class token pass an MLP one after the other.
        assert len(seen) == (4 if case == 'feed forward' else 2)
        assert all(torch.equal(a, b) for a, b in zip(fast, expected))
    # Encodings have forms of their own, which layers around may call.
    assert case == 'encoded attention' or not calls


@cases
def test_pruned_layers_switch_it_off(case, calls):
    layer, inputs = prepared(case)
    for part in parts(layer, inputs):
        prune.random_unstructured(part, 'weight', amount=0.5)
    fast, expected = both_ways(layer, inputs)
    assert all(torch.equal(a, b) for a, b in zip(fast, expected))
    assert not calls


class Doubled(nn.Module):
    def __init__(self, base):
        super().__init__()
        self.base = base

    def forward(self, *args):
        return 2 * self.base(*args)


@pytest.mark.parametrize(
    'case', ['relative', 'encoded attention', 'feed forward']
)
@pytest.mark.parametrize('wrap', [Doubled, nn.Sequential])
def test_wrapped_layers_are_called(case, wrap, calls):
    layer, inputs = prepared(case)
    modules = [layer, *(m for m in inputs if isinstance(m, nn.Module))]
    pairs = [
        (parent, name, child)
        for module in modules
        for parent in module.modules()
        for name, child in parent.named_children()
        if type(child) in (nn.Linear, nn.Conv2d, nn.LayerNorm)
    ]
    assert pairs
    for parent, name, child in pairs:
        setattr(parent, name, wrap(child).eval())
    fast, expected = both_ways(layer, inputs)
    assert all(torch.equal(a, b) for a, b in zip(fast, expected))
    assert not calls


@cases
def test_other_dtypes_and_training_see_the_layer(case, calls):
    layer, inputs = prepared(case)
    modules = [layer, *(m for m in inputs if isinstance(m, nn.Module))]
    with torch.no_grad():
        for module in modules:
            module.train()
        layer(*inputs)
        for module in modules:
            module.eval().double()
        inputs = [m if m in modules else m.double() for m in inputs]
        layer(*inputs)
    assert not calls


def test_stochastic_depth_in_training():
    layer, inputs = prepared('feed forward', images=64)
    x, token = inputs[:2]
    with torch.no_grad():
        out, token_out = layer.train()(*inputs)
    kept = (out != x).flatten(1).any(1)
    assert 0 < kept.sum() < 64
    assert torch.equal(kept, (token_out != token).flatten(1).any(1))


def test_without_a_class_token():
    layer, (x, *_) = prepared('attention')
    with torch.no_grad():
        out, token = layer(x)
        with reference():
            assert torch.equal(out, layer(x)[0])
    assert token is None


@cases
def test_no_images(case):
    layer, inputs = prepared(case, images=0)
    for a, b in zip(*both_ways(layer, inputs)):
        assert a.shape == b.shape and len(a) == 0
