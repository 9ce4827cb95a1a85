"""A norm and the 1 x 1 convolution behind it."""

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from mmctx.ops import norm_conv, reference
from mmctx.ops.norm_conv import cpu


def batch_norm(kind=nn.BatchNorm2d, **options):
    norm = kind(6, **options)
    for tensor in (norm.weight, norm.bias):
        if tensor is not None:
            nn.init.normal_(tensor)
    if norm.running_mean is not None:
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    return norm.eval()


NORMS = {
    'none': lambda: None,
    'batch norm': batch_norm,
    'synchronised': lambda: batch_norm(nn.SyncBatchNorm),
    'without parameters': lambda: batch_norm(affine=False),
}
SIZES = [(12,), (3, 4, 5)]


@pytest.fixture(autouse=True)
def same_numbers():
    torch.manual_seed(0)


@pytest.fixture
def calls(monkeypatch):
    calls, original = [], cpu.fold_batch_norm
    monkeypatch.setattr(
        cpu,
        'fold_batch_norm',
        lambda *args: calls.append(1) or original(*args),
    )
    return calls


def both_ways(*args):
    with torch.no_grad():
        fast = norm_conv(*args)
        with reference():
            return fast, norm_conv(*args)


@pytest.mark.parametrize('sizes', SIZES)
@pytest.mark.parametrize('norm', NORMS)
@pytest.mark.parametrize('shape', [(0, 6, 9, 9), (2, 6, 2, 2), (2, 6, 9, 9)])
def test_cpu_against_reference(norm, sizes, shape, calls):
    """Of no pixels, of few, which are not worth folding, and of many."""
    norm, conv = NORMS[norm](), nn.Conv2d(6, 12, 1).eval()
    x = torch.randn(shape)
    before = x.clone()
    fast, expected = both_ways(x, norm, conv, sizes)
    assert calls == [1]
    assert [part.shape[1] for part in fast] == list(sizes)
    for a, b in zip(fast, expected):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    whole = torch.cat(expected, 1)
    torch.testing.assert_close(whole, conv(x if norm is None else norm(x)))
    assert torch.equal(x, before)


def test_parts_are_feature_maps_of_their_own():
    x = torch.randn(2, 6, 9, 9).to(memory_format=torch.channels_last)
    fast, _ = both_ways(x, batch_norm(), nn.Conv2d(6, 12, 1).eval(), (4, 8))
    for part in fast:
        assert part.is_contiguous(memory_format=torch.channels_last)


class Shifted(nn.Conv2d):
    def forward(self, x):
        return super().forward(x) + 1


@pytest.mark.parametrize(
    'norm, conv',
    [
        (batch_norm(), Shifted(6, 12, 1)),
        (batch_norm(), nn.Conv2d(6, 12, 1, bias=False)),
        (batch_norm(), nn.Conv2d(6, 12, 3, padding=1)),
        (batch_norm(), nn.Conv2d(6, 12, 1, padding=1)),
        (batch_norm(), nn.Conv2d(6, 12, 1, stride=2)),
        (batch_norm(), nn.Conv2d(6, 12, 1, groups=3)),
        (batch_norm().train(), nn.Conv2d(6, 12, 1)),
        (batch_norm(track_running_stats=False), nn.Conv2d(6, 12, 1)),
        (nn.GroupNorm(2, 6), nn.Conv2d(6, 12, 1)),
        (nn.Sequential(batch_norm()), nn.Conv2d(6, 12, 1)),
    ],
)
def test_other_layers_are_called(norm, conv, calls):
    x = torch.randn(2, 6, 9, 9)
    fast, expected = both_ways(x, norm, conv.eval(), (4, 8))
    for a, b in zip(fast, expected):
        assert torch.equal(a, b)
    assert not calls


@pytest.mark.parametrize('layer', [0, 1])
def test_hooked_layers_are_called(layer, calls):
    layers, seen = (batch_norm(), nn.Conv2d(6, 12, 1).eval()), []
    layers[layer].register_forward_hook(lambda *args: seen.append(1))
    both_ways(torch.randn(2, 6, 9, 9), *layers, (4, 8))
    assert seen == [1, 1] and not calls


def test_pruned_layers_are_called(calls):
    conv = nn.Conv2d(6, 12, 1)
    prune.l1_unstructured(conv, 'weight', amount=0.5)
    both_ways(torch.randn(2, 6, 9, 9), batch_norm(), conv, (4, 8))
    assert not calls


def test_gradients():
    norm, conv = batch_norm().double(), nn.Conv2d(6, 12, 1).double()
    x = torch.randn(2, 6, 2, 3, dtype=torch.double, requires_grad=True)
    torch.autograd.gradcheck(lambda x: norm_conv(x, norm, conv, (4, 8)), x)
    norm_conv(x, norm, conv, (4, 8))[0].sum().backward()
    for parameter in (*norm.parameters(), *conv.parameters()):
        assert parameter.grad.any()


def test_bad_sizes():
    for grad in (True, False):
        with torch.set_grad_enabled(grad), pytest.raises(RuntimeError):
            norm_conv(torch.randn(2, 6, 9, 9), None, nn.Conv2d(6, 12, 1), (4,))
