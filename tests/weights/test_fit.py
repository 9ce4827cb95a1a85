"""Any file fits any backbone that it belongs to, as a whole or not at all."""

import re
import time

import pytest
import torch
from torch import nn

from mmctx.checkpoints import CheckpointError, load_backbone, recognise
from mmctx.models import (
    ContextualConvNeXt,
    ContextualResNet,
    CoTNet,
    backbones,
)
from mmctx.models.backbones.base import ContextBackbone
from mmctx.weights.fit import fit
from mmctx.weights.keys import renamer
from tests.helpers.backbones import TINY, build_tiny
from tests.helpers.parity import Fixture, unit

timm = pytest.importorskip('timm')
torchvision = pytest.importorskip('torchvision')


def load(backbone, state, tmp_path, **kwargs):
    torch.save(state, tmp_path / 'a.pth')
    load_backbone(backbone, str(tmp_path / 'a.pth'), **kwargs)
    return backbone.eval()


def shaken(model):
    """Vectors of a plain network that tell each from all others."""
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if value.dim() == 1:
                noise = torch.from_numpy(unit(key, tuple(value.shape)))
                centre = 0 if key.endswith(('bias', 'mean')) else 1
                value.copy_(centre + 0.3 * noise)
    model.eval()
    return model


def maps_of_timm(model, x):
    maps = model.forward_intermediates(
        x, indices=4, intermediates_only=True, norm=False
    )
    return maps[-4:]


def check_maps(backbone, expected):
    x = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for ours, theirs in zip(backbone(x), expected(x)):
            assert ours.shape == theirs.shape
            error = (ours - theirs).abs().max() / theirs.abs().max()
            assert error < 1e-5


def test_plain_resnet_of_another_depth(tmp_path):
    """In under a second: no network of the zoo is built to compare with."""
    plain = shaken(timm.create_model('resnet101'))
    state = plain.state_dict()
    assert {*state} == {*torchvision.models.resnet101().state_dict()}
    backbone = ContextualResNet(depth=101, contextual_stages=())
    start = time.process_time()
    result = fit(state, backbone)
    assert time.process_time() - start < 1
    assert result.dropped == ['fc.weight', 'fc.bias']
    load(backbone, state, tmp_path)
    check_maps(backbone, lambda x: maps_of_timm(plain, x))
    contextual = fit(state, ContextualResNet(depth=101))
    assert not contextual.complaints() and contextual.initial


def test_cotnet_without_cot_is_a_resnet(tmp_path):
    plain = shaken(timm.create_model('resnet26', block_args=dict()))
    backbone = CoTNet(depth=26, stem_channels=64, cot_stages=())
    load(backbone, plain.state_dict(), tmp_path)
    check_maps(backbone, lambda x: maps_of_timm(plain, x))


@pytest.mark.parametrize('prefix', ['', 'backbone.', 'module.backbone.'])
def test_resnet_of_detectors(prefix, tmp_path):
    """mmdet's own ResNet, bare and as a part of a detector."""
    mmdet = pytest.importorskip('mmdet.models')
    plain = shaken(mmdet.ResNet(50, base_channels=16, stem_channels=16))
    state = {f'{prefix}{k}': v for k, v in plain.state_dict().items()}
    if prefix:
        outer = prefix[: -len('backbone.')]
        state[f'{outer}neck.lateral_convs.0.conv.weight'] = torch.zeros(2)
        state[f'{outer}rpn_head.rpn_cls.weight'] = torch.zeros(2)
    backbone = ContextualResNet(
        base_channels=16, stem_channels=16, contextual_stages=()
    )
    load(backbone, state, tmp_path)
    check_maps(backbone, plain)


@pytest.mark.parametrize('form', ['timm', 'features', 'torchvision'])
def test_plain_convnext_of_another_size(form, tmp_path):
    depths, channels = (1, 2, 2, 1), (16, 24, 32, 40)
    if form == 'torchvision':
        setting = torchvision.models.convnext.CNBlockConfig
        sizes = zip(channels, (*channels[1:], None), depths)
        plain = torchvision.models.ConvNeXt([setting(*s) for s in sizes])

        def maps(x):
            for i, layer in enumerate(plain.features):
                x = layer(x)
                if i % 2:
                    yield x

    else:
        options = dict(features_only=True) if form == 'features' else {}
        plain = timm.create_model(
            'convnext_tiny', depths=depths, dims=channels, **options
        )
        maps = plain if options else lambda x: maps_of_timm(plain, x)
    shaken(plain)
    backbone = ContextualConvNeXt(
        dict(depths=depths, channels=channels), contextual_stages=()
    )
    load(backbone, plain.state_dict(), tmp_path)
    check_maps(backbone, maps)


@pytest.mark.parametrize(
    'backbone, released',
    [
        (dict(type='CoTNet', base_channels=16), 'cotnet50'),
        (
            dict(
                type='CoaT',
                arch=dict(
                    embed_dims=(8, 16, 16, 16),
                    serial_depths=(2, 2, 2, 2),
                    mlp_ratios=(2, 2, 2, 2),
                    parallel_depth=6,
                ),
            ),
            'coat_tiny',
        ),
        (
            dict(type='ContextualResNet', base_channels=16, num_classes=600),
            'ctx_resnet50',
        ),
    ],
)
def test_release_at_other_widths(backbone, released, tmp_path):
    """The authors' names with the shapes of a narrower network."""
    backbone = dict(backbone)
    backbone = getattr(backbones, backbone.pop('type'))(**backbone)
    shapes = {k: v.shape for k, v in backbone.state_dict().items()}
    keys = [*Fixture(released).released]
    rename = backbone.key_map(keys)
    state = {}
    for key in keys:
        name = rename(key).removeprefix('backbone.')
        shape = tuple(shapes.get(name, (1,)))
        integer = key.endswith('num_batches_tracked')
        state[key] = torch.from_numpy(unit(name, shape)).to(
            torch.long if integer else torch.float
        )
    load(backbone, state, tmp_path)
    for key, value in backbone.state_dict().items():
        noise = torch.from_numpy(unit(key, tuple(value.shape)))
        assert torch.equal(value, noise.to(value.dtype)), key


def test_family_of_another_package(tmp_path):
    """A backbone class outside mmctx brings its key map along."""

    class Linear(ContextBackbone):
        key_map = staticmethod(
            lambda keys: renamer([(r'^fc\.', 'backbone.stem.')])
        )

        def __init__(self):
            super().__init__((4, 4, 4, 4))
            self.stem = nn.Linear(3, 4)
            self._finish_init()

    source, target = nn.Linear(3, 4), Linear()
    state = {f'fc.{k}': v for k, v in source.state_dict().items()}
    load(target, state, tmp_path)
    assert torch.equal(target.stem.weight, source.weight)
    load(target, Linear().state_dict(), tmp_path)
    with pytest.raises(CheckpointError, match='does not fit this Linear'):
        load(target, {**state, 'fc.extra': torch.zeros(1)}, tmp_path)


@pytest.mark.parametrize('shape', [(), (1,), (1, 1)])
def test_a_scalar_of_any_rank(shape, tmp_path):
    """Files of before and after parameters of one element got an axis."""
    key = 'contextualizing.log_scale'
    backbone = build_tiny('ContextualResNet')
    state = {k: v.clone() for k, v in backbone.state_dict().items()}
    state[key] = torch.full(shape, 0.25)
    load(backbone, state, tmp_path)
    assert backbone.state_dict()[key].item() == 0.25
    state[key] = torch.zeros(2)
    with pytest.raises(CheckpointError, match=r'log_scale \(2,\) instead of'):
        load(backbone, state, tmp_path)


def test_a_teacher_goes_before_its_student(tmp_path):
    """Semi-supervised detectors hold two copies; mmdet evaluates the first."""
    student, teacher = build_tiny('CoTNet'), build_tiny('CoTNet')
    state = {
        f'{kind}.backbone.{key}': value
        for kind, model in (('student', student), ('teacher', teacher))
        for key, value in model.state_dict().items()
    }
    target = build_tiny('CoTNet')
    for options, source in (
        ({}, teacher),
        (dict(prefix='student.backbone'), student),
    ):
        load(target, state, tmp_path, **options)
        key = 'stem.0.weight'
        assert torch.equal(target.state_dict()[key], source.state_dict()[key])


@pytest.mark.parametrize('name', TINY)
def test_fewer_stages_and_all_or_nothing(name, tmp_path):
    state = build_tiny(name).state_dict()
    backbone = build_tiny(name, out_indices=(0, 1))
    load(backbone, state, tmp_path)
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, state[key].reshape(value.shape))
    key = max(k for k in backbone.state_dict() if k.endswith('weight'))
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    for damage in (
        {k: v + 1 for k, v in state.items() if k != key},
        {**{k: v + 1 for k, v in state.items()}, key: torch.zeros(2, 3, 5)},
        {**{k: v + 1 for k, v in state.items()}, 'extra': torch.zeros(2)},
    ):
        with pytest.raises(CheckpointError, match=f'{re.escape(key)}|extra'):
            load(backbone, damage, tmp_path)
        for k, value in backbone.state_dict().items():
            assert torch.equal(value, before[k])


def test_recognition_is_quick():
    state = Fixture('ctx_resnet50_ctx_stage34').released
    recognise(state)  # builds and keeps the beginnings of all networks
    start = time.process_time()
    assert recognise(state) == 'ctx_resnet50_ctx_stage34'
    assert time.process_time() - start < 2
