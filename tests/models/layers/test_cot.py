import pytest
import torch
import torch.nn.functional as F
from mmcv.cnn import ConvModule, build_conv_layer
from torch import nn

from mmctx.models.layers import CoTLayer, CoXtLayer
from mmctx.models.layers.cot import CONTEXTS

LAYERS = (CoTLayer, CoXtLayer)


@pytest.mark.parametrize('layer_type', LAYERS)
@pytest.mark.parametrize('context', CONTEXTS)
@pytest.mark.parametrize('kernel_size', [3, 5])
def test_shapes_and_gradients(layer_type, context, kernel_size):
    layer = layer_type(32, kernel_size, context)
    x = torch.randn(2, 32, 5, 7, requires_grad=True)
    out = layer(x)
    assert out.shape == x.shape
    out.square().sum().backward()
    assert x.grad.isfinite().all()
    assert all(p.grad is not None for p in layer.parameters())


def test_context_options_are_parts_of_the_full_layer():
    """Table 5: one set of weights, four outputs."""
    full = CoTLayer(16).eval()
    outputs = {}
    x = torch.randn(2, 16, 6, 6)
    for context in CONTEXTS:
        layer = CoTLayer(16, context=context).eval()
        layer.load_state_dict(full.state_dict(), strict=context == 'full')
        with torch.no_grad():
            outputs[context] = layer(x)
    static, dynamic = outputs['static'], outputs['dynamic']
    torch.testing.assert_close(outputs['linear'], static + dynamic)
    low, high = torch.minimum(static, dynamic), torch.maximum(static, dynamic)
    assert (outputs['full'] >= low - 1e-6).all()
    assert (outputs['full'] <= high + 1e-6).all()


def test_against_the_equations():
    """Eq. 4 and 5 and the fusion, written out with an unfold."""
    d, k = 16, 3
    layer = CoTLayer(d, k).double().eval()
    x = torch.randn(2, d, 4, 5, dtype=torch.double)
    key = layer.static_context(x)
    attention = layer.attention(torch.cat([x, key], 1))
    taps = attention.view(2, d // 8, k * k, 20)
    patches = F.unfold(layer.value(x), k, padding=1).view(2, d, k * k, 20)
    shared = taps[:, torch.arange(d) % (d // 8)]
    dynamic = (shared * patches).sum(2).view_as(x)
    dynamic = F.silu(layer.dynamic_norm(dynamic))
    logits = layer.fusion.mlp((dynamic + key).mean((2, 3), keepdim=True))
    a = logits.view(2, d, 2, 1, 1).softmax(2)
    expected = a[:, :, 0] * dynamic + a[:, :, 1] * key
    torch.testing.assert_close(layer(x), expected)


def test_coxt_halves_do_not_share_attention():
    """Values of one half of the channels never reach the other half."""
    layer = CoXtLayer(16, context='dynamic').eval()
    x = torch.randn(1, 16, 5, 5)
    value = torch.zeros(1, 16, 5, 5)
    value[:, :8] = 1
    layer.value = nn.Sequential(nn.Identity())
    layer.value.forward = lambda _: value
    layer.dynamic_norm = layer.act = nn.Identity()
    with torch.no_grad():
        out = layer(x)
    assert (out[:, :8] != 0).any() and (out[:, 8:] == 0).all()


@pytest.mark.parametrize(
    'layer_type, kwargs, message',
    [
        (CoTLayer, dict(channels=12), 'multiple of 8, got 12'),
        (CoTLayer, dict(channels=0), 'multiple of 8'),
        (CoXtLayer, dict(channels=24), 'multiple of 16, got 24'),
        (CoTLayer, dict(channels=16, kernel_size=4), 'odd kernel_size'),
        (CoTLayer, dict(channels=16, kernel_size=1), 'odd kernel_size'),
        (CoTLayer, dict(channels=16, context='both'), "got 'both'"),
    ],
)
def test_bad_arguments(layer_type, kwargs, message):
    with pytest.raises(ValueError, match=message):
        layer_type(**kwargs)


@pytest.mark.parametrize(
    'name, layer_type', [('CoT', CoTLayer), ('CoXt', CoXtLayer)]
)
@pytest.mark.parametrize('stride', [1, 2, (2, 2)])
def test_stands_for_a_convolution(name, layer_type, stride):
    conv = build_conv_layer(
        dict(type=name), 32, 32, 3, stride=stride, padding=1, bias=False
    )
    plain = nn.Conv2d(32, 32, 3, stride=stride, padding=1)
    assert sum(isinstance(m, layer_type) for m in conv.modules()) == 1
    x = torch.randn(2, 32, 9, 10)
    assert conv(x).shape == plain(x).shape
    for attribute in (
        'in_channels', 'out_channels', 'kernel_size', 'stride', 'padding',
        'dilation', 'groups', 'transposed', 'output_padding',
    ):  # fmt: skip
        assert getattr(conv, attribute) == getattr(plain, attribute)


@pytest.mark.parametrize(
    'args, kwargs',
    [
        ((16, 16, 1), {}),
        ((16, 32, 3), dict(padding=1)),
        ((12, 12, 3), dict(padding=1)),
        ((16, 16, 3), dict(padding=0)),
        ((16, 16, 3), dict(padding=2, dilation=2)),
        ((16, 16, 3), dict(padding=1, groups=16)),
        ((16, 16, (1, 3)), dict(padding=(0, 1))),
    ],
)
def test_other_convolutions_stay(args, kwargs):
    conv = build_conv_layer(dict(type='CoT'), *args, **kwargs)
    assert type(conv) is nn.Conv2d


def test_conv_module():
    module = ConvModule(
        16, 16, 3, padding=1, conv_cfg=dict(type='CoT', context='dynamic'),
        norm_cfg=dict(type='BN'),
    )  # fmt: skip
    module.init_weights()
    assert module(torch.randn(2, 16, 8, 8)).shape == (2, 16, 8, 8)
    assert module.conv.cot.context == 'dynamic'


def test_any_resnet():
    """All 3 x 3 convolutions of mmdet's ResNet-50 become CoT layers."""
    from mmdet.models.backbones import ResNet

    net = ResNet(50, conv_cfg=dict(type='CoT'), base_channels=16)
    layers = [m for m in net.modules() if isinstance(m, CoTLayer)]
    assert len(layers) == 3 + 4 + 6 + 3
    net.eval()
    maps = net(torch.randn(1, 3, 65, 64))
    assert [m.shape[2] for m in maps] == [17, 9, 5, 3]
