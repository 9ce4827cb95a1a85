"""Every backbone at an output stride of 16 or 8."""

import math

import pytest
import torch
from torch import nn

from mmctx.models.backbones.cotnet import SEConv
from mmctx.models.layers import (
    ContextAggregation,
    ContextualConv2d,
    ConvAttention,
    ConvRelativePositionEncoding,
    CoTLayer,
    CoXtLayer,
)
from mmctx.models.layers.contextual_conv import SamplingPredictor
from mmctx.ops import reference
from tests.helpers.backbones import TINY, build_tiny, class_of
from tests.models.backbones.test_contract import (
    check_exported,
    image,
    loss_of,
)
from tests.models.backbones.test_module_contract import Adapted

STRIDES = {32: (4, 8, 16, 32), 16: (4, 8, 16, 16), 8: (4, 8, 8, 8)}
names = pytest.mark.parametrize('name', sorted(TINY))
output_strides = pytest.mark.parametrize('output_stride', [16, 8])

#: What leaves nothing but neighbourhoods that a dilation spreads: no global
#: means, no attention, no offsets between pixels.
LOCAL = {
    'CoTNet': dict(context='linear'),
    'CoTNeXt': dict(context='linear'),
    'SECoTNetD': dict(context='linear'),
    'CoaT': dict(co_scale='none'),
    'Container': dict(aggregation=dict(dynamic='none')),
    'ConTNet': dict(patch_sizes=(1,), last_patch_size=1),
    'ContextualConvNeXt': dict(use_context=False, weight_offsets=False),
    'ContextualResNet': dict(use_context=False, weight_offsets=False),
    'SixthNet': {},
}
#: Forms of a class that its tiny instances do not have.
FORMS = [
    *((name, {}) for name in sorted(TINY)),
    ('SECoTNetD', dict(blur_pool=False, cot_stages=(0, 1, 2, 3))),
    ('ConTNet', dict(dense=False)),
    ('ConTNet', dict(dense=False, avg_down=True)),
    ('Container', dict(aggregation=dict(dynamic='none', static_heads=4))),
    (
        'Container',
        dict(aggregation=dict(dynamic='none', static='dense_conv')),
    ),
]


class Constant(nn.Module):
    def forward(self, x):
        return torch.full_like(x, 0.5)


def fill(model):
    """Random norms; contextual convolutions look whole pixels away."""
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm)):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
        if isinstance(module, SamplingPredictor):
            module.predict.bias.data.random_(-2, 3)
    return model


def make_local(model):
    """Replace what looks at a whole feature map."""
    for module in model.modules():
        if isinstance(module, CoTLayer):
            module.attention[-1] = nn.Identity()
        elif isinstance(module, SEConv):
            module.gate = Constant()
        elif isinstance(module, ConvAttention):
            width = module.heads[1]
            module.summarise = lambda k, v, width=width: torch.eye(
                width, dtype=v.dtype
            ).expand(len(v), 8, -1, -1)
    return model


@pytest.mark.parametrize('name, form', FORMS)
@output_strides
def test_maps_keep_every_second_pixel(name, form, output_stride):
    """What the network computes at a larger stride is among its pixels."""
    form = {**LOCAL[class_of(name)], **form}
    model = fill(build_tiny(name, **form)).double().eval()
    dilated = build_tiny(name, output_stride=output_stride, **form)
    dilated.double().eval().load_state_dict(model.state_dict())
    for size in ((64, 32), (33, 47)):
        x = image(1, 3, *size, dtype=torch.double)
        with torch.no_grad():
            pairs = zip(make_local(model)(x), make_local(dilated)(x))
        for i, (m, larger) in enumerate(pairs):
            step = model.out_strides[i] // dilated.out_strides[i]
            assert (step > 1) == (model.out_strides[i] > output_stride)
            torch.testing.assert_close(larger[..., ::step, ::step], m)


LAYERS = {
    'cot': lambda d: CoTLayer(32, dilation=d),
    'coxt': lambda d: CoXtLayer(32, 5, dilation=d),
    'se': lambda d: SEConv(32, 1, d, dict(type='BN')),
    'aggregation': lambda d: ContextAggregation(32, 4, dilation=d),
    'contextual': lambda d: ContextualConv2d(32, 32, 3, padding=d, dilation=d),
    'contextual depth-wise': lambda d: ContextualConv2d(
        32, 32, 7, padding=3 * d, dilation=d, groups=32, mask=False
    ),
    'contextual, weights alone': lambda d: ContextualConv2d(
        32, 32, 3, padding=d, dilation=d, sampling_offsets=False
    ),
}


class EncodedAttention(nn.Module):
    """Conv-attention of CoaT, with its relative position encoding."""

    def __init__(self, dilation):
        super().__init__()
        self.attention = ConvAttention(32)
        self.encoding = ConvRelativePositionEncoding(32, dilation)

    def forward(self, x):
        return self.attention(x, None, self.encoding)[0]


LAYERS['conv-attention'] = EncodedAttention


@pytest.mark.parametrize('layer', LAYERS)
@pytest.mark.parametrize('dilation', [2, 4])
def test_layers_that_look_at_the_whole_map(layer, dilation):
    """Repeated pixels leave means, variances and attention as they are."""
    plain = fill(LAYERS[layer](1)).double().eval()
    dilated = LAYERS[layer](dilation).double().eval()
    dilated.load_state_dict(plain.state_dict())
    x = torch.randn(2, 32, 5, 6, dtype=torch.double)
    repeated = x.repeat_interleave(dilation, 2).repeat_interleave(dilation, 3)
    out = dilated(repeated)
    assert out.shape == repeated.shape
    torch.testing.assert_close(out[..., ::dilation, ::dilation], plain(x))
    with torch.no_grad():
        assert not torch.allclose(plain(repeated), out, rtol=1e-3)


@names
@output_strides
@pytest.mark.parametrize('size', [(32, 64), (33, 47)])
def test_strides_at_any_size(name, output_stride, size):
    """With fast forms and without."""
    model = fill(build_tiny(name, output_stride=output_stride)).eval()
    assert model.out_strides == STRIDES[output_stride]
    with torch.no_grad():
        maps = model(image(2, 3, *size))
        with reference():
            expected = model(image(2, 3, *size))
    for m, e, channels, stride in zip(
        maps, expected, model.out_channels, model.out_strides
    ):
        shape = tuple(math.ceil(side / stride) for side in size)
        assert m.shape == (2, channels, *shape)
        torch.testing.assert_close(m, e, rtol=1e-3, atol=1e-3)


def test_strides_of_a_classifier_and_of_some_maps():
    model = build_tiny('ConTNet', dense=False, output_stride=16)
    assert model.out_strides == (8, 16, 16, 16)
    model = build_tiny('CoTNet', out_indices=(1, 3), output_stride=8)
    assert model.out_strides == (8, 8)


@names
@output_strides
def test_parameters_stay(name, output_stride):
    plain = build_tiny(name).state_dict()
    dilated = build_tiny(name, output_stride=output_stride).state_dict()
    assert [(k, v.shape) for k, v in plain.items()] == [
        (k, v.shape) for k, v in dilated.items()
    ]


@names
@pytest.mark.parametrize('output_stride', [0, 4, 64, 16.0, '8', None, (8,)])
def test_wrong_output_stride(name, output_stride):
    with pytest.raises(ValueError, match=r'one of \(32, 16, 8\), got'):
        build_tiny(name, output_stride=output_stride)


@names
def test_gradients_checkpointing_and_freezing(name):
    plain = build_tiny(name, output_stride=8).double()
    thrifty = build_tiny(name, output_stride=8, with_cp=True).double()
    frozen = build_tiny(name, output_stride=8, frozen_stages=3).double()
    for model in (plain, thrifty, frozen):
        model.load_state_dict(plain.state_dict())
        model.train()
        loss_of(model(image(2, 3, 33, 32, dtype=torch.double))).backward()
    for (key, a), b, c in zip(
        plain.named_parameters(), thrifty.parameters(), frozen.parameters()
    ):
        assert (a.grad is not None) == a.requires_grad, key
        torch.testing.assert_close(a.grad, b.grad, msg=key)
        if key.startswith(('stem.', 'stages.0.', 'stages.1.', 'stages.2.')):
            assert c.grad is None and not c.requires_grad


@names
def test_autocast(name):
    model = build_tiny(name, output_stride=8)
    x = image(2, 3, 32, 48)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        maps = model(x)
    loss_of([m.float() for m in maps]).backward()
    learned = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad.isfinite().all() for p in learned)
    model.eval()
    with torch.no_grad(), torch.autocast('cpu', dtype=torch.bfloat16):
        rounded = model(x)
    with torch.no_grad():
        for a, b in zip(model(x), rounded):
            assert (a - b).norm() / a.norm() < 0.05


@names
def test_adapters_around_all_convolutions(name):
    """Nothing reads the geometry or weight of a layer that is wrapped."""
    model = build_tiny(name, output_stride=8).double().eval()
    x = image(1, 3, 32, 33, dtype=torch.double)
    expected = model(x)
    for parent in list(model.modules()):
        for child, module in list(parent.named_children()):
            if isinstance(module, nn.Conv2d):
                parent.register_module(child, Adapted(module))
    for a, b in zip(model(x), expected):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize('name', sorted({class_of(name) for name in TINY}))
def test_compiles_without_graph_breaks(name):
    torch._dynamo.reset()
    model = build_tiny(name, output_stride=8).eval()
    compiled = torch.compile(model, fullgraph=True, backend='eager')
    x = image(2, 3, 33, 64)
    with torch.no_grad():
        for a, b in zip(compiled(x), model(x)):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    'name', ['SECoTNetD', 'CoaT', 'ConTNet', 'Container', 'ContextualResNet']
)
def test_onnx_equals_torch(name, tmp_path):
    check_exported(
        name, tmp_path / 'model.onnx', size=(32, 32), output_stride=8
    )
