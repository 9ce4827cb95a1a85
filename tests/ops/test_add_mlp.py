import copy

import pytest
import torch
from torch import nn

from mmctx.models.layers.mlp import ConvMLP, TokenMLP
from mmctx.ops import add_mlp, reference
from mmctx.ops.add_mlp import cpu


def tokens(layer_norm=True):
    norm = nn.LayerNorm(6) if layer_norm else None
    return TokenMLP(6, 20), norm, torch.randn(2, 70, 33, 6)


def feature_map():
    mlp = ConvMLP(6, 20, dict(type='BN'))
    mlp.norm.running_mean.normal_()
    mlp.norm.running_var.uniform_(0.5, 2)
    nn.init.normal_(mlp.norm.weight)
    nn.init.normal_(mlp.norm.bias)
    return mlp, None, torch.randn(2, 6, 70, 33)


CASES = {
    'tokens': tokens,
    'tokens without norm': lambda: tokens(False),
    'feature map': feature_map,
}


def prepared(case):
    torch.manual_seed(0)
    mlp, norm, x = CASES[case]()
    return mlp.eval(), norm and norm.eval(), x


def both_ways(*args, **kwargs):
    with torch.no_grad():
        fast = add_mlp(*args, **kwargs)
        with reference():
            return fast, add_mlp(*args, **kwargs)


def count_calls(monkeypatch):
    calls, original = [], cpu._add_rows
    monkeypatch.setattr(
        cpu, '_add_rows', lambda *args: calls.append(1) or original(*args)
    )
    return calls


@pytest.mark.parametrize('scaled', [False, True])
@pytest.mark.parametrize('case', CASES)
def test_cpu_against_reference(case, scaled, monkeypatch):
    mlp, norm, x = prepared(case)
    scale = torch.randn(6) if scaled and x.shape[-1] == 6 else None
    calls, before = count_calls(monkeypatch), x.clone()
    fast, expected = both_ways(x, mlp, norm, scale=scale)
    assert calls == [1]
    torch.testing.assert_close(fast, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(x, before)


def test_branch_of_its_own():
    mlp, norm, x = prepared('tokens')
    branch = torch.randn_like(x)
    fast, expected = both_ways(x, mlp, norm, branch)
    torch.testing.assert_close(fast, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        expected, x + mlp(norm(branch)).detach(), rtol=1e-4, atol=1e-5
    )


class Shifted(nn.Linear):
    def forward(self, x):
        return super().forward(x) + 1


@pytest.mark.parametrize('layer', ['fc1', 'fc2', 'act', 'norm'])
@pytest.mark.parametrize('case', ['tokens', 'feature map'])
def test_replaced_and_hooked_layers_are_called(case, layer, monkeypatch):
    mlp, norm, x = prepared(case)
    calls, seen = count_calls(monkeypatch), []
    owner = nn.ModuleDict(dict(norm=norm)) if layer == 'norm' and norm else mlp
    child = getattr(owner, layer) if owner is mlp else norm
    handle = child.register_forward_hook(lambda *args: seen.append(1))
    both_ways(x, mlp, norm)
    assert seen == [1, 1]
    handle.remove()
    if layer == 'fc1' and case == 'tokens':
        mlp.fc1 = Shifted(6, 20)
    elif layer == 'act':
        mlp.act = nn.Tanh()
    elif layer == 'norm':
        norm = nn.Identity() if norm else None
        mlp = copy.deepcopy(mlp)
        if norm is None:
            mlp.norm = nn.GroupNorm(2, 6)
    else:
        return
    fast, expected = both_ways(x, mlp, norm)
    assert torch.equal(fast, expected)
    assert not calls


def test_further_layers_are_called():
    mlp, norm, x = prepared('tokens')
    mlp.append(nn.Tanh())
    fast, expected = both_ways(x, mlp, norm)
    assert torch.equal(fast, expected)


def test_dropout_in_training_without_gradients():
    mlp, norm, x = TokenMLP(6, 20, 0.5), nn.LayerNorm(6), torch.ones(4, 6)
    with torch.no_grad():
        different = add_mlp(x, mlp.train(), norm) - add_mlp(x, mlp, norm)
    assert different.abs().sum() > 0


@pytest.mark.parametrize('case', CASES)
def test_gradients(case):
    mlp, norm, x = prepared(case)
    x = x.double()[:, :3, :2] if case != 'feature map' else x.double()[..., :2]
    norm = norm and norm.double()
    torch.autograd.gradcheck(
        lambda x: add_mlp(x, mlp.double(), norm), x[:1].requires_grad_()
    )


@pytest.mark.parametrize('case', ['few pixels', 'scale', 'norm in training'])
def test_feature_maps_of_other_kinds(case, monkeypatch):
    """A norm that is not worth folding, or must not be; a scale."""
    mlp, _, x = prepared('feature map')
    calls, scale = count_calls(monkeypatch), None
    x = x[:, :, :2, :3]
    if case == 'scale':
        scale = torch.randn(3)
    elif case == 'norm in training':
        mlp.norm.train()
    fast, expected = both_ways(x, mlp, scale=scale)
    torch.testing.assert_close(fast, expected, rtol=1e-4, atol=1e-5)
    assert len(calls) == (case == 'few pixels')
