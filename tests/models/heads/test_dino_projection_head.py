import copy

import torch
from torch.nn.utils.parametrizations import weight_norm

from mmctx.models.heads import DINOProjectionHead


def test_last_layer_is_weight_normalised_with_unit_gain():
    head = DINOProjectionHead(8, 12, hidden_channels=16, bottleneck_channels=4)
    features = torch.randn(5, 8)
    layer = weight_norm(copy.deepcopy(head.last_layer))
    layer.parametrizations.weight.original0.data.fill_(1)
    hidden = head.mlp(features)
    expected = layer(hidden / hidden.norm(dim=1, keepdim=True))
    logits = head(features)
    torch.testing.assert_close(logits, expected)
    assert logits.shape == (5, 12)
    assert logits.abs().max() <= 1


def test_sizes_of_the_paper():
    with torch.device('meta'):
        head = DINOProjectionHead(512)
    shapes = [tuple(p.shape) for p in head.parameters() if p.ndim == 2]
    assert shapes == [(2048, 512), (2048, 2048), (256, 2048), (65536, 256)]


def test_norm_follows_the_hidden_layers():
    head = DINOProjectionHead(
        8, 12, 16, bottleneck_channels=4, norm_cfg=dict(type='BN1d')
    )
    kinds = [type(layer).__name__ for layer in head.mlp]
    hidden = ['Linear', 'BatchNorm1d', 'GELU']
    assert kinds == [*hidden, *hidden, 'Linear']
    # The norm would cancel a bias.
    assert [m.bias is None for m in head.mlp[::3]] == [True, True, False]
    head(torch.randn(5, 8)).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in head.parameters())
