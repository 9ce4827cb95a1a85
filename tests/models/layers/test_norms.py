"""Norms of feature maps and of vectors."""

import copy

import pytest
import torch
import torch.distributed as dist
from mmengine.model import revert_sync_batchnorm
from torch import nn

from mmctx.models.layers.norms import (
    HalfLayerNorm,
    LayerNorm2d,
    VectorSequential,
    apply_vector_norm,
    build_norm,
    build_vector_norm,
    use_half_layer_norms,
)

CONFIGS = {
    'BN': dict(type='BN'),
    'SyncBN': dict(type='SyncBN'),
    'GN': dict(type='GN', num_groups=2),
    'LN': dict(type='LN'),
}
kinds = pytest.mark.parametrize('kind', CONFIGS)


def make_norm(kind):
    torch.manual_seed(0)
    norm = build_norm(CONFIGS[kind], 6)
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    for name, buffer in norm.named_buffers():
        if name.startswith('running'):
            buffer.uniform_(0.5, 2)
    # As mmengine's runner does in a single process.
    return revert_sync_batchnorm(norm) if kind == 'SyncBN' else norm


def test_layer_norm_of_feature_maps():
    norm, x = make_norm('LN'), torch.randn(2, 6, 4, 3)
    pixel = nn.functional.layer_norm(x[1, :, 2, 1], (6,), *norm.parameters())
    torch.testing.assert_close(norm(x)[1, :, 2, 1], pixel)
    assert build_norm(dict(type='LN', eps=1e-6), 6).eps == 1e-6
    assert build_vector_norm(dict(type='LN', eps=1e-6), 6).eps == 1e-5


@kinds
def test_vectors_are_feature_maps_of_one_pixel(kind):
    norm, x = make_norm(kind).train(), torch.randn(5, 6)
    out = apply_vector_norm(copy.deepcopy(norm), x)
    if kind == 'BN':
        one_dimensional = nn.BatchNorm1d(6).train()
        one_dimensional.load_state_dict(norm.state_dict())
        torch.testing.assert_close(out, one_dimensional(x))
    torch.testing.assert_close(out, norm(x[..., None, None]).flatten(1))


def in_vector_sequential(norm, x):
    layers = VectorSequential(nn.Identity(), norm)
    return layers(x[..., None, None]).flatten(1)


@kinds
@pytest.mark.parametrize('apply', [apply_vector_norm, in_vector_sequential])
def test_a_single_vector_in_training(kind, apply):
    """By running statistics, which stay; the norm is called."""
    norm, x = make_norm(kind).train(), torch.randn(1, 6, requires_grad=True)
    state, modes = copy.deepcopy(norm.state_dict()), []
    norm.register_forward_hook(lambda *args: modes.append(norm.training))
    out = apply(norm, x)
    out.square().sum().backward()
    assert x.grad.isfinite().all() and norm.weight.grad.any()
    assert norm.training and len(modes) == 1
    assert all(torch.equal(v, state[k]) for k, v in norm.state_dict().items())
    torch.testing.assert_close(apply(norm.eval(), x), out)


def test_the_mode_returns_after_an_error():
    norm = make_norm('BN').train()
    with pytest.raises(RuntimeError):
        apply_vector_norm(norm, torch.randn(1, 5))
    assert norm.training


def test_synchronised_norms_of_several_ranks_see_other_vectors(monkeypatch):
    norm, modes = build_norm(dict(type='SyncBN'), 6).train(), []
    monkeypatch.setattr(dist, 'is_initialized', lambda: True)
    monkeypatch.setattr(
        norm, 'forward', lambda x: modes.append(norm.training) or x
    )
    for ranks in (1, 2):
        monkeypatch.setattr(dist, 'get_world_size', lambda group, n=ranks: n)
        apply_vector_norm(norm, torch.randn(1, 6))
    assert modes == [False, True]


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('kind', [nn.LayerNorm, LayerNorm2d])
@pytest.mark.parametrize('affine', [True, False])
def test_half_layer_norms(kind, dtype, affine):
    torch.manual_seed(0)
    norm = kind(6, elementwise_affine=affine)
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    half, x = copy.deepcopy(norm), torch.randn(2, 6, 6, 6, requires_grad=True)
    use_half_layer_norms(half)
    assert isinstance(half, HalfLayerNorm) and isinstance(half, kind)
    assert torch.equal(half(x), norm(x))
    with torch.autocast('cpu', dtype):
        out, expected = half(x), norm(x)
        assert half(x.double()).dtype == torch.float64
    assert out.dtype == dtype and expected.dtype == torch.float32
    rounding = dict(rtol=0, atol=8 * torch.finfo(dtype).eps)
    torch.testing.assert_close(out.float(), expected, **rounding)
    actual, expected = (
        torch.autograd.grad(y.float().sum(), (x, *layer.parameters()))
        for y, layer in ((out, half), (expected, norm))
    )
    for a, b in zip(actual, expected):
        assert a.dtype == torch.float32
        torch.testing.assert_close(
            a, b, rtol=0.1, atol=20 * torch.finfo(dtype).eps
        )
