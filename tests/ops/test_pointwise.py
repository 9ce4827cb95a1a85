"""1 x 1 convolutions as matrix products."""

import copy
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmctx.ops import pointwise, reference

module = sys.modules['mmctx.ops.pointwise']


@pytest.fixture
def products(monkeypatch):
    """Lets CPU tensors pass for a GPU's; counts matrix products."""
    products, original = [], F.linear
    monkeypatch.setattr(module, '_refuse_device', lambda x: None)
    monkeypatch.setattr(
        F, 'linear', lambda *args: products.append(1) or original(*args)
    )
    return products


def feature_map(dtype=torch.float64, memory_format=torch.channels_last):
    torch.manual_seed(0)
    x = torch.randn(2, 6, 5, 3, dtype=dtype)
    return x.to(memory_format=memory_format).requires_grad_()


def results(x, layer):
    out = pointwise(x, layer)
    inputs = x, *layer.parameters()
    return out, *torch.autograd.grad(out.pow(2).sum(), inputs)


@pytest.mark.parametrize('shape', [(2, 6, 5, 3), (1, 6, 1, 1), (0, 6, 2, 2)])
def test_equals_the_convolution(shape, products):
    layer, x = nn.Conv2d(6, 8, 1).double(), feature_map()
    x = x[: shape[0], :, : shape[2], : shape[3]].detach()
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    actual = results(x, layer)
    assert products == [1]
    with reference():
        expected = results(x, layer)
    assert products == [1]
    for a, b in zip(actual, expected):
        torch.testing.assert_close(a, b)
    assert actual[0].is_contiguous(memory_format=torch.channels_last)


def test_takes_the_dtype_of_autocast(products):
    layer, x = nn.Conv2d(6, 8, 1), feature_map(torch.float32)
    with torch.autocast('cpu', torch.bfloat16):
        assert pointwise(x, layer).dtype == torch.bfloat16
    assert products


class Shifted(nn.Conv2d):
    def forward(self, x):
        return super().forward(x) + 1


@pytest.mark.parametrize(
    'layer',
    [
        Shifted(6, 8, 1),
        nn.Conv2d(6, 8, 1, bias=False),
        nn.Conv2d(6, 8, 3),
        nn.Conv2d(6, 8, 1, stride=2),
        nn.Conv2d(6, 8, 1, groups=2),
        nn.GELU(),
    ],
)
def test_other_layers_are_called(layer, products):
    x, layer = feature_map(), copy.deepcopy(layer).double()
    assert torch.equal(pointwise(x, layer), layer(x))
    assert not products


def test_hooked_layers_are_called(products):
    layer, seen = nn.Conv2d(6, 8, 1).double(), []
    layer.register_forward_hook(lambda *args: seen.append(1))
    pointwise(feature_map(), layer)
    assert seen and not products


def test_other_inputs_are_convolved(monkeypatch, products):
    """On other devices, or where a product would copy the feature map."""
    layer = nn.Conv2d(6, 8, 1).double()
    pointwise(feature_map(memory_format=torch.contiguous_format), layer)
    pointwise(feature_map()[0], layer)
    monkeypatch.undo()
    monkeypatch.setattr(F, 'linear', lambda *args: products.append(1))
    pointwise(feature_map(), layer)
    assert not products
