"""What ConTNet has beyond the contract of all backbones."""

import math

import pytest
import torch
from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from mmctx import get_backbone, get_model
from mmctx.checkpoints import convert_state_dict, load_backbone
from mmctx.models.layers import PatchwiseTransformerEncoder
from mmctx.zoo import get_spec
from tests.helpers.backbones import TINY, build_tiny
from tests.helpers.parity import Fixture
from tests.helpers.scripts import load_script

get_flops = load_script('tools/analysis_tools/get_flops.py')

#: Millions of parameters and billions of multiply-adds at 224 x 224 of the
#: released code, and those of the attention's two products. The paper prints
#: 19.2M for M and 39.6M for B, which its own Table 1 does not give, and
#: multiply-adds without those products: 0.8, 1.5, 3.1 and 6.4.
RELEASED = {
    'contnet_ti': (5.889, 1.000, 0.133, 0.8),
    'contnet_s': (10.103, 1.670, 0.177, 1.5),
    'contnet_m': (19.537, 3.440, 0.354, 3.1),
    'contnet_b': (36.043, 7.029, 0.654, 6.4),
}


def parameters(name, **options):
    """Millions, classifier included."""
    with torch.device('meta'):
        backbone = get_backbone(name, **options)
    count = sum(p.numel() for p in backbone.parameters())
    return (count + (backbone.out_channels[-1] + 1) * 1000) / 1e6


@pytest.mark.parametrize('name', RELEASED)
def test_size_as_released(name):
    params, macs, attention, paper = RELEASED[name]
    assert parameters(name) == pytest.approx(params, abs=0.0006)
    with torch.device('meta'):
        model = get_model(name).eval()
    counts = get_flops.count_multiply_adds(
        lambda: model(torch.empty(1, 3, 224, 224, device='meta'))
    )

    def total(*ends):
        return sum(v for k, v in counts.items() if k.endswith(ends)) / 1e9

    products = total('.attention') - total('.qkv', '.attention.proj')
    assert counts['Global'] / 1e9 == pytest.approx(macs, rel=0.001)
    assert products == pytest.approx(attention, rel=0.005)
    # The paper cuts its figures off, or rounds them.
    assert abs(counts['Global'] / 1e9 - products - paper) < 0.1


@pytest.mark.parametrize(
    'name, options, params',
    [
        ('contnet_ti', dict(position='relative'), 5.886),
        ('contnet_m', dict(position='relative'), 19.522),
        ('contnet_b', dict(position='relative'), 36.014),
        ('contnet_ti', dict(qkv_bias=False), 5.885),
        ('contnet_m', dict(qkv_bias=False), 19.525),
        ('contnet_m', dict(avg_down=True, pre_norm=True), 19.537),
        # Table 11
        ('contnet_m', dict(groups=4), 15.11),
        ('contnet_m', dict(groups=8), 14.37),
        ('contnet_m', dict(groups=16), 14.00),
        ('contnet_m', dict(separable=True), 15.39),
    ],
)
def test_size_of_variants(name, options, params):
    digits = len(str(params).split('.')[1])
    tolerance = 0.6 * 10**-digits
    assert parameters(name, **options) == pytest.approx(params, abs=tolerance)


def test_paper_widths():
    """Table 1 gives the MLPs of Ti 192 and 384 channels, not 196 and 392."""
    narrower = 2 * (2 * 4 * 48 + 4) + 2 * (2 * 8 * 96 + 8)
    difference = parameters('contnet_ti') - parameters(
        'contnet_ti', arch='ti_paper'
    )
    assert difference * 1e6 == pytest.approx(narrower)


def test_position_codes():
    """Table 8: what each adds to the parameters of ConT-M."""
    none = parameters('contnet_m', position='none')
    sides = [(7, 14)] * 3 + [(7, 7)]
    maps = (56, 28, 14, 7)
    expected = dict.fromkeys(('1d', '2d', '2d_image'), 0)
    for i, pair in enumerate(sides):
        width = 64 * 2**i
        for side in pair:
            expected['1d'] += 2 * side * side * width
            expected['2d'] += 2 * side * width
            expected['2d_image'] += 2 * maps[i] * width
    for position, count in expected.items():
        added = parameters('contnet_m', position=position) - none
        assert added * 1e6 == pytest.approx(count), position


@pytest.mark.parametrize('kind', ['ConTNet', 'ConTNet relative'])
@pytest.mark.parametrize('size', [(32, 32), (33, 47), (90, 130)])
def test_two_forms_with_one_state_dict(kind, size):
    dense = build_tiny(kind).eval()
    classifier = build_tiny(kind, dense=False).eval()
    classifier.load_state_dict(dense.state_dict(), strict=True)
    assert classifier.out_strides == (8, 16, 32, 32)
    assert classifier.out_channels == dense.out_channels
    x = torch.randn(2, 3, *size)
    maps, dense_maps = classifier(x), dense(x)
    for i, (m, stride) in enumerate(zip(maps, classifier.out_strides)):
        assert m.shape[2:] == tuple(math.ceil(s / stride) for s in size)
        assert m.shape[1] == dense_maps[i].shape[1]
    # A stage of stride 1 before pooling: every second pixel is the other's.
    torch.testing.assert_close(dense_maps[0][..., ::2, ::2], maps[0])


def test_names_build_the_form_that_their_use_needs():
    model = get_model('contnet_m', num_classes=5, arch=TINY['ConTNet']['arch'])
    assert model.backbone.out_strides == (8, 16, 32, 32)
    backbone = get_backbone('contnet_m', arch=TINY['ConTNet']['arch'])
    assert backbone.out_strides == (4, 8, 16, 32)
    assert 'semantic segmentation' in get_spec('contnet_m').tasks


@pytest.mark.parametrize('dense', [True, False])
def test_released_file_loads_into_both_forms(tmp_path, dense):
    fixture = Fixture('contnet_ti')
    path = tmp_path / 'released.pth'
    state = {f'module.{k}': v for k, v in fixture.released.items()}
    torch.save({'model': state, 'epoch': 199}, path)
    backbone = get_backbone('contnet_ti', dense=dense)
    load_backbone(backbone, str(path))
    expected = convert_state_dict(fixture.released, 'contnet_ti')
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, expected[f'backbone.{key}']), key


def test_shortcuts_of_dense_maps_have_no_stride_to_pool():
    """Average pooling replaces strides, which the dense form lacks."""
    plain = build_tiny('ConTNet', dense=False).eval()
    pooled = build_tiny('ConTNet', dense=False, avg_down=True).eval()
    pooled.load_state_dict(plain.state_dict(), strict=True)
    x = torch.randn(1, 3, 72, 40)
    for a, b in zip(plain(x), pooled(x)):
        assert a.shape == b.shape and not torch.allclose(a, b)
    dense = build_tiny('ConTNet').eval()
    both = build_tiny('ConTNet', avg_down=True).eval()
    both.load_state_dict(dense.state_dict(), strict=True)
    assert all(torch.equal(a, b) for a, b in zip(dense(x), both(x)))


def patch_sizes(model):
    return [
        [[encoder.patch_size for encoder in block.ste] for block in stage]
        for stage in model.stages
    ]


@pytest.mark.parametrize(
    'arrangement, sizes, last',
    [
        ((7, 14), [[7, 14], [7, 14]], [[7, 7], [7, 7]]),
        ((7, 7), [[7, 7], [7, 7]], [[7, 7], [7, 7]]),
        ((14, 14), [[14, 14], [14, 14]], [[7, 7], [7, 7]]),
        (((7, 7), (14, 14)), [[7, 7], [14, 14]], [[7, 7], [7, 7]]),
        (((3,), [5, 9]), [[3], [5, 9]], [[3], [5, 7]]),
    ],
)
def test_patch_arrangements(arrangement, sizes, last):
    """Table 9."""
    with torch.device('meta'):
        model = get_backbone('contnet_m', patch_sizes=arrangement)
    assert patch_sizes(model) == [sizes] * 3 + [last]


def test_larger_patches_in_the_last_stage():
    model = build_tiny('ConTNet', last_patch_size=14)
    assert patch_sizes(model)[3] == [[7, 14]]


@pytest.mark.parametrize('options', [dict(groups=4), dict(separable=True)])
def test_convolutions_of_a_block(options):
    """Table 11: groups everywhere, or depthwise 3 x 3 and nothing else."""
    dense = build_tiny('ConTNet', **options)
    convs = [m for m in dense.stages.modules() if isinstance(m, nn.Conv2d)]
    if 'groups' in options:
        assert all(conv.groups == 4 for conv in convs)
    else:
        for conv in convs:
            depthwise = conv.kernel_size == (3, 3)
            assert conv.groups == (conv.in_channels if depthwise else 1)
    classifier = build_tiny('ConTNet', dense=False, **options)
    classifier.load_state_dict(dense.state_dict(), strict=True)
    x = torch.randn(2, 3, 40, 72)
    for model in (dense, classifier):
        sum(m.square().sum() for m in model(x)).backward()
        assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize('position', ['none', '1d', '2d_image', 'relative'])
@pytest.mark.parametrize('pre_norm', [False, True])
def test_options_train_at_any_size(position, pre_norm):
    model = build_tiny('ConTNet', position=position, pre_norm=pre_norm)
    maps = model(torch.randn(2, 3, 70, 51))
    sum(m.square().sum() for m in maps).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all()
        assert parameter.grad.any() or name.endswith('qkv.bias'), name


def test_padding_with_zeros_is_an_option():
    masked = build_tiny('ConTNet').eval()
    plain = build_tiny('ConTNet', pad_mask=False).eval()
    plain.load_state_dict(masked.state_dict(), strict=True)
    for side, same in ((224, True), (200, False)):
        x = torch.randn(1, 3, side, side)
        for a, b in zip(masked(x), plain(x)):
            assert torch.equal(a, b) == same


def test_dropout_as_released():
    """ConT-B: 0.1 in the encoders of stages 3 and 4, 0.2 behind the last."""
    with torch.device('meta'):
        model = get_backbone('contnet_b')
    for i, stage in enumerate(model.stages):
        rates = {m.p for m in stage.modules() if isinstance(m, nn.Dropout)}
        assert rates == [{0.0}, {0.0}, {0.0, 0.1}, {0.0, 0.1, 0.2}][i]
        for block in stage:
            last = i == 3 and block is stage[-1]
            assert block.dropout.p == (0.2 if last else 0.0)


def test_initial_values():
    torch.manual_seed(0)
    model = get_backbone('contnet_s')
    for conv in model.modules():
        if isinstance(conv, nn.Conv2d):
            fan_out = conv.out_channels * conv.kernel_size[0] ** 2
            std = conv.weight.std().item()
            assert std == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
            assert conv.bias is None
    assert model.stages[0][0].ste[0].attention.qkv.weight.std().item() < 0.022


def test_one_key_names_all_encoders():
    """Two learning rates, Table 10, by MMEngine's own constructor."""
    model = get_model('contnet_m', arch=TINY['ConTNet']['arch'])
    ours = {
        id(p)
        for m in model.modules()
        if isinstance(m, PatchwiseTransformerEncoder)
        for p in m.parameters()
    }
    constructor = DefaultOptimWrapperConstructor(
        dict(optimizer=dict(type='SGD', lr=0.2)),
        dict(custom_keys={'.ste.': dict(lr_mult=0.025)}),
    )
    groups = constructor(model).optimizer.param_groups
    slow = {
        id(p) for group in groups if group['lr'] < 0.2 for p in group['params']
    }
    assert slow == ours
    assert {round(group['lr'], 6) for group in groups} == {0.2, 0.005}


ARCH = TINY['ConTNet']['arch']


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(arch='l'), "arch must be one of.*got 'l'"),
        (dict(arch=dict(depths=(1, 1, 1, 1))), 'or a dict with'),
        (dict(arch=dict(ARCH, width=3)), 'or a dict with'),
        (
            dict(arch=dict(ARCH, depths=(1, 1, 1))),
            'four values .one per stage. in',
        ),
        (
            dict(arch=dict(ARCH, drop_rates=(0.1,))),
            'four values .one per stage. in',
        ),
        (dict(arch=dict(ARCH, depths=(0, 1, 1, 1))), 'depths must be positiv'),
        (dict(patch_sizes=7), 'patch_sizes must hold.*got 7'),
        (dict(patch_sizes=()), r'patch_sizes must hold.*got \(\)'),
        (dict(patch_sizes=((7, 0), (7,))), 'patch_sizes must hold'),
        (dict(patch_sizes=(7, (7, 14))), 'patch_sizes must hold'),
        (dict(groups=3), 'groups must divide the stem_channels 8, got 3'),
        (dict(groups=0), 'got 0'),
        (dict(position='sine'), "position must be one of.*got 'sine'"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        build_tiny('ConTNet', **options)
