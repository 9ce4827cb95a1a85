"""The contextual convolution alone, and its parts."""

import copy
import itertools
import sys

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS, DefaultScope
from torch import nn
from torchvision.ops import deform_conv2d

from mmctx.models.layers import ContextualConv2d
from mmctx.models.layers.norms import apply_vector_norm, build_norm
from mmctx.models.layers.pooling import (
    global_mean,
    halved,
    sizes_without_padding,
)

contextual_deform_conv = sys.modules['mmctx.ops.contextual_deform_conv']
LN = dict(type='LN', eps=1e-6)
#: Channels in and out, kernel, and the rest of a convolution.
GEOMETRIES = {
    'dense': (8, 12, 3, dict(stride=2, padding=1, bias=False)),
    'grouped': (8, 12, 3, dict(padding=2, dilation=2, groups=4)),
    'depth-wise': (16, 16, 7, dict(padding=3, groups=16)),
}
SWITCHES = [
    dict(weight_offsets=w, sampling_offsets=s, mask=m)
    for w, s, m in itertools.product((True, False), repeat=3)
    if s or (w and m)
]
geometries = pytest.mark.parametrize('geometry', sorted(GEOMETRIES))
switches = pytest.mark.parametrize(
    'switch',
    SWITCHES,
    ids=lambda switch: '-'.join(k for k, v in switch.items() if v) or 'none',
)


def make_conv(geometry, context_channels=4, norm_cfg=None, **options):
    """With predictors that predict something, unlike at the start."""
    channels, out_channels, kernel, kwargs = GEOMETRIES[geometry]
    torch.manual_seed(0)
    conv = ContextualConv2d(
        channels,
        out_channels,
        kernel,
        context_channels=context_channels,
        norm_cfg=norm_cfg,
        **kwargs,
        **options,
    )
    for parameter in conv.parameters():
        nn.init.normal_(parameter, std=0.3)
    return conv.eval()


def make_input(geometry, images=3, context_channels=4):
    torch.manual_seed(1)
    x = torch.randn(images, GEOMETRIES[geometry][0], 9, 12)
    return x, torch.randn(images, context_channels)


def one_by_one(conv, x, context):
    """Eq. 4 with torchvision's operator, each image alone."""
    spread = context[..., None, None].expand(-1, -1, *x.shape[2:])
    taps = conv.weight.shape[2:].numel()
    outputs = []
    for i in range(len(x)):
        weight = conv.weight
        image = x[i : i + 1]
        if conv.weight_predictor is not None:
            p = conv.weight_predictor
            mean = torch.cat((context[i], x[i].mean((1, 2))))[None]
            delta = p.fc2(F.relu(apply_vector_norm(p.norm, p.fc1(mean))))
            weight = weight + delta.view(-1, *weight.shape[1:])
        if conv.sampling_predictor is None:
            out = F.conv2d(
                image,
                weight,
                conv.bias,
                conv.stride,
                conv.padding,
                conv.dilation,
                conv.groups,
            )
        else:
            p = conv.sampling_predictor
            joined = torch.cat((spread, x), dim=1)[i : i + 1]
            raw = p.predict(F.relu(p.norm(p.reduce(joined))))
            mask = raw[:, 2 * taps :].sigmoid()
            out = deform_conv2d(
                image,
                raw[:, : 2 * taps] * conv.dilation[0],
                weight,
                conv.bias,
                conv.stride,
                conv.padding,
                conv.dilation,
                mask if p.mask else None,
            )
        outputs.append(out)
    return torch.cat(outputs)


@geometries
@switches
def test_equals_each_image_alone(geometry, switch):
    """Forward and all gradients, in float64."""
    conv = make_conv(geometry, norm_cfg=LN, **switch).double()
    x, context = (t.double() for t in make_input(geometry))
    results = []
    for run in (conv, lambda *inputs: one_by_one(conv, *inputs)):
        inputs = x.clone().requires_grad_(), context.clone().requires_grad_()
        conv.zero_grad()
        out = run(*inputs)
        (
            out * torch.linspace(-1, 1, out.numel()).view_as(out)
        ).sum().backward()
        grads = [p.grad.clone() for p in conv.parameters()]
        results.append([out, *(t.grad for t in inputs), *grads])
    for result, expected in zip(*results):
        torch.testing.assert_close(result, expected, rtol=1e-8, atol=1e-9)


@geometries
@switches
def test_starts_as_a_share_of_the_ordinary_convolution(geometry, switch):
    channels, out_channels, kernel, kwargs = GEOMETRIES[geometry]
    conv = ContextualConv2d(
        channels, out_channels, kernel, context_channels=4, **kwargs, **switch
    )
    conv.eval().double()
    x, context = (t.double() for t in make_input(geometry))
    masked = switch['sampling_offsets'] and switch['mask']
    weight = conv.weight * (0.5 if masked else 1)
    expected = F.conv2d(
        x,
        weight,
        conv.bias,
        conv.stride,
        conv.padding,
        conv.dilation,
        conv.groups,
    )
    torch.testing.assert_close(conv(x, context), expected)


@geometries
def test_shapes_of_the_predictors(geometry):
    channels, _, kernel, _ = GEOMETRIES[geometry]
    conv = make_conv(geometry)
    hidden = channels // (4 if kernel == 3 else 16)
    sampling, weight = conv.sampling_predictor, conv.weight_predictor
    assert sampling.reduce.weight.shape == (hidden, channels + 4, 1, 1)
    taps = kernel**2
    assert sampling.predict.weight.shape == (3 * taps, hidden, kernel, kernel)
    size = channels * taps // (4 if geometry == 'grouped' else 1)
    assert weight.fc2.weight.shape == (size, hidden)
    bare = make_conv(geometry, mask=False, weight_offsets=False)
    assert bare.sampling_predictor.predict.out_channels == 2 * taps
    assert bare.weight_predictor is None


@geometries
def test_context_as_an_extra_input(geometry):
    """Spread, joined to the features, and read by 1 x 1 kernels."""
    conv = make_conv(geometry, weight_offsets=False, sampling_offsets=False)
    conv.double()
    x, context = (t.double() for t in make_input(geometry))
    out = conv(x, context)
    plain = nn.Conv2d.forward(conv, x)
    spread = context[..., None, None].expand(-1, -1, *out.shape[2:])
    extra = F.conv2d(spread, conv.context_weight.weight[..., None, None])
    torch.testing.assert_close(out, plain + extra)


@geometries
@switches
def test_without_context_and_in_any_memory_format(geometry, switch):
    conv = make_conv(geometry, context_channels=0, **switch)
    x, _ = make_input(geometry)
    expected = conv(x)
    last = copy.deepcopy(conv).to(memory_format=torch.channels_last)
    result = last(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)
    strided = torch.randn(3, x.shape[1], 9, 24)[..., ::2]
    torch.testing.assert_close(
        conv(strided), conv(strided.contiguous()), rtol=1e-4, atol=1e-5
    )


@geometries
def test_an_image_does_not_depend_on_the_others(geometry):
    conv = make_conv(geometry)
    x, context = make_input(geometry)
    whole = conv(x, context)
    for i in range(3):
        alone = conv(x[i : i + 1], context[i : i + 1])
        torch.testing.assert_close(alone[0], whole[i], rtol=1e-4, atol=1e-5)


@geometries
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_autocast_casts_as_for_an_ordinary_convolution(
    geometry, dtype, monkeypatch
):
    """The feature map and the weights, but not where they are sampled."""
    conv = make_conv(geometry).to(dtype)
    x, context = (v.to(dtype) for v in make_input(geometry))
    exact = conv(x, context)
    expected = torch.bfloat16 if dtype == torch.float32 else dtype
    dtypes = {}

    def spy(x, offset, weight, bias, mask, *geometry):
        dtypes.update(x=x.dtype, weight=weight.dtype)
        dtypes.update(offset=offset.dtype, mask=mask.dtype)
        return operator(x, offset, weight, bias, mask, *geometry)

    operator = contextual_deform_conv.contextual_deform_conv
    monkeypatch.setattr(contextual_deform_conv, 'contextual_deform_conv', spy)
    with torch.autocast('cpu', torch.bfloat16):
        out = conv(x, context)
        ordinary = nn.Conv2d.forward(conv, x)
    assert out.dtype == ordinary.dtype == dtypes['x'] == expected
    assert dtypes['weight'] == expected
    assert dtypes['offset'] == dtypes['mask'] == dtype
    tolerance = 0.02 if expected == torch.bfloat16 else 1e-6
    assert (out - exact).norm() < tolerance * exact.norm()


def test_padding_can_be_left_out_of_the_mean():
    conv = make_conv('dense', sampling_offsets=False).double()
    x, context = (t.double() for t in make_input('dense'))
    valid = torch.tensor([[9, 12], [4, 12], [7, 5]])
    for i, (h, w) in enumerate(valid.tolist()):
        result = conv.weight_predictor(x, context, valid)[i]
        alone = conv.weight_predictor(
            x[i : i + 1, :, :h, :w], context[i : i + 1], None
        )
        torch.testing.assert_close(result, alone[0])
    assert not torch.allclose(conv(x, context, valid), conv(x, context))


def test_global_mean_and_sizes():
    x = torch.randn(2, 3, 8, 10).double()
    torch.testing.assert_close(global_mean(x), x.mean((2, 3)))
    x[0, :, 5:] = 0
    x[0, :, :, 7:] = 0
    x[1, :, 3] = 0  # not at the end
    valid = sizes_without_padding(x)
    assert valid.tolist() == [[5, 7], [8, 10]]
    torch.testing.assert_close(
        global_mean(x, valid)[0], x[0, :, :5, :7].mean((1, 2))
    )
    assert halved(valid).tolist() == [[3, 4], [4, 5]]
    assert halved(None) is None
    assert sizes_without_padding(torch.zeros(1, 3, 4, 4)).tolist() == [[1, 1]]


@pytest.mark.parametrize('type_', ['BN', 'GN', 'LN'])
def test_norms_of_vectors(type_):
    """As of a map of one pixel; batch norm as in one dimension."""
    cfg = dict(type=type_, **(dict(num_groups=2) if type_ == 'GN' else {}))
    norm = build_norm(cfg, 6).train()
    x = torch.randn(5, 6)
    normed = apply_vector_norm(norm, x)
    torch.testing.assert_close(normed, norm(x[..., None, None]).flatten(1))
    if type_ == 'BN':
        torch.testing.assert_close(normed, nn.BatchNorm1d(6)(x))


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(kernel_size=(3, 5)), 'square kernel.*got kernel_size'),
        (dict(padding='same'), "square kernel.*padding='same'"),
        (dict(padding_mode='reflect'), "must be 'zeros', got 'reflect'"),
        (dict(in_channels=3), 'needs 4 input channels or more, got 3'),
        (
            dict(weight_offsets=False, sampling_offsets=False),
            'use nn.Conv2d',
        ),
    ],
)
def test_wrong_arguments(options, message):
    defaults = dict(in_channels=8, out_channels=8, kernel_size=3, **{})
    with pytest.raises(ValueError, match=message):
        ContextualConv2d(**{**defaults, **options})


def test_wrong_context():
    x, context = make_input('dense')
    with pytest.raises(ValueError, match=r'shape \(3, 4\), got None'):
        make_conv('dense')(x)
    with pytest.raises(ValueError, match=r'shape \(3, 4\), got \(3, 5\)'):
        make_conv('dense')(x, torch.randn(3, 5))
    with pytest.raises(ValueError, match=r'shape None, got \(3, 4\)'):
        make_conv('dense', context_channels=0)(x, context)


@pytest.mark.parametrize('host', ['mmdet', 'mmpretrain'])
def test_in_a_resnet_of_mmcv(host):
    """All 3 x 3 convolutions; zeros survive the network's own start."""
    models = pytest.importorskip(f'{host}.registry').MODELS
    with DefaultScope.overwrite_default_scope(host):
        model = models.build(
            dict(
                type='ResNet',
                depth=18,
                base_channels=8,
                stem_channels=8,
                conv_cfg=dict(type='ContextualConv', mask=False),
            )
        )
    model.init_weights()
    convs = [m for m in model.modules() if isinstance(m, ContextualConv2d)]
    assert len(convs) == 16 and all(c.kernel_size == (3, 3) for c in convs)
    for conv in convs:
        assert not conv.sampling_predictor.predict.weight.any()
        assert not conv.weight_predictor.fc2.weight.any()
    model.train()  # which returns nothing in mmdet
    maps = model(torch.randn(2, 3, 64, 64))
    sum(m.square().mean() for m in maps).backward()
    assert all(p.grad is not None for c in convs for p in c.parameters())


def test_as_a_conv_layer_of_mmcv():
    from mmcv.cnn import build_conv_layer

    cfg = dict(type='ContextualConv', sampling_offsets=False)
    conv = build_conv_layer(cfg, 8, 16, 3, stride=2, padding=1, bias=False)
    assert isinstance(conv, ContextualConv2d)
    assert conv.sampling_predictor is None
    assert conv(torch.randn(2, 8, 9, 9)).shape == (2, 16, 5, 5)
    for args in ((8, 16, 1), (3, 64, 7), (8, 16, (1, 3))):
        assert type(build_conv_layer(cfg, *args)) is nn.Conv2d
    assert MODELS.get('ContextualConv') is not None
