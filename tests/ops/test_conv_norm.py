"""A convolution and its norm, alone and on a shortcut."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

from mmctx.ops import add_conv_norm, apply_conv_norm, reference
from mmctx.ops.conv_norm import cpu


def make(conv=None, norm=nn.BatchNorm2d):
    torch.manual_seed(0)
    conv = conv or nn.Conv2d(6, 10, 1, bias=False)
    layers = nn.Sequential(conv, norm(conv.out_channels)).eval()
    for parameter in layers[1].parameters():
        nn.init.normal_(parameter)
    layers[1].running_mean.normal_()
    layers[1].running_var.uniform_(0.1, 2)
    return layers


@pytest.fixture
def x():
    return torch.randn(2, 6, 23, 29)


@pytest.fixture
def products(monkeypatch):
    """Counts what is computed as a product."""
    calls = []
    fuse = cpu.fuse_conv_bn_weights
    monkeypatch.setattr(
        cpu,
        'fuse_conv_bn_weights',
        lambda *args: calls.append(1) or fuse(*args),
    )
    return calls


@torch.no_grad()
@pytest.mark.parametrize(
    'options', [{}, dict(bias=False), dict(stride=2), dict(stride=(1, 3))]
)
def test_product_equals_reference(options, x, products):
    layers = make(nn.Conv2d(6, 10, 1, **options))
    expected = layers.double()(x.double()).float()
    layers.float()
    out = apply_conv_norm(x, *layers)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    assert out.is_contiguous()
    shortcut = torch.randn_like(expected)
    before = x.clone(), shortcut.clone()
    out = add_conv_norm(shortcut, x, layers)
    torch.testing.assert_close(out, expected + shortcut, rtol=1e-5, atol=1e-5)
    assert len(products) == 2
    # What is given stays.
    assert torch.equal(x, before[0]) and torch.equal(shortcut, before[1])


@torch.no_grad()
def test_scale_of_stochastic_depth(x, products):
    layers, shortcut = make(), torch.randn(2, 10, 23, 29)
    scale = torch.tensor([0.0, 2.0]).view(2, 1, 1, 1)
    out = add_conv_norm(shortcut, x, layers, scale)
    torch.testing.assert_close(out, shortcut + layers(x) * scale)
    assert torch.equal(out[0], shortcut[0]) and not products


def hooked(layers):
    layers[1].register_forward_hook(lambda *args: None)


def pruned(layers):
    prune.l1_unstructured(layers[0], 'weight', amount=0.5)


def parametrised(layers):
    parametrize.register_parametrization(layers[1], 'bias', nn.Identity())


class Adapter(nn.Conv2d):
    pass


CHANGES = {
    'hook': hooked,
    'pruned': pruned,
    'parametrised': parametrised,
    'adapter': lambda layers: setattr(
        layers, '0', Adapter(6, 10, 1, bias=False)
    ),
    'training': nn.Module.train,
    'group norm': lambda layers: setattr(layers, '1', nn.GroupNorm(2, 10)),
    'no statistics': lambda layers: setattr(
        layers, '1', nn.BatchNorm2d(10, track_running_stats=False).eval()
    ),
    '3 x 3': lambda layers: setattr(
        layers, '0', nn.Conv2d(6, 10, 3, padding=1)
    ),
    'groups': lambda layers: setattr(
        layers, '0', nn.Conv2d(6, 10, 1, groups=2)
    ),
    'padding': lambda layers: setattr(
        layers, '0', nn.Conv2d(6, 10, 1, padding=1)
    ),
}


@torch.no_grad()
@pytest.mark.parametrize('change', CHANGES)
def test_other_layers_are_called(change, x, products):
    layers = make()
    apply_conv_norm(x, *layers)
    assert len(products) == 1
    CHANGES[change](layers)
    expected = copy.deepcopy(layers)(x)
    shortcut = torch.randn_like(expected)
    torch.testing.assert_close(
        apply_conv_norm(x, *copy.deepcopy(layers)), expected
    )
    torch.testing.assert_close(
        add_conv_norm(shortcut, x, layers), expected + shortcut
    )
    assert len(products) == 1


@torch.no_grad()
def test_other_tensors_are_not_multiplied(x, products):
    layers = make()
    for other in (x[:, :, :3], x.to(memory_format=torch.channels_last), x[:0]):
        torch.testing.assert_close(
            apply_conv_norm(other, *layers), layers(other)
        )
    with torch.enable_grad():
        apply_conv_norm(x, *layers)
    with reference():
        apply_conv_norm(x, *layers)
    assert not products


def test_gradients():
    layers = make().double()
    x = torch.randn(2, 6, 3, 4, dtype=torch.double, requires_grad=True)
    shortcut = torch.randn(2, 10, 3, 4, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, y: add_conv_norm(y, x, layers), (x, shortcut)
    )
