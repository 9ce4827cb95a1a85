import re

import pytest
import torch

from mmctx import get_backbone, get_model, list_models
from mmctx.checkpoints import (
    CheckpointError,
    convert_state_dict,
    examine,
    recognise,
    unwrap,
)
from mmctx.models import backbones
from mmctx.models.backbones.base import ContextBackbone
from mmctx.zoo import get_spec
from tests.helpers.parity import Fixture


@pytest.fixture(scope='module')
def released():
    return Fixture('cotnet50').released


@pytest.fixture(scope='module')
def expected(released):
    return convert_state_dict(released, 'cotnet50')


def detectron2_names(state):
    """The detection release's spelling of a classification state dict."""
    deep = 'conv1.6.weight' in state
    stem_norm = 'stem.conv1.7.' if deep else 'stem.conv1.norm.'
    shortcut = 'shortcut.1.' if deep else 'shortcut.'
    conv, norm = ('1', '2') if deep else ('0', '1')
    renamed = {}
    for key, value in state.items():
        if key.startswith('fc.') or key.endswith('num_batches_tracked'):
            continue
        key = re.sub(r'^bn1\.', stem_norm, key)
        key = re.sub(r'^conv1\.', 'stem.conv1.', key)
        key = re.sub(r'^layer(\d)', lambda m: f'res{int(m[1]) + 1}', key)
        key = re.sub(r'(\.\d+)\.bn([13])\.', r'\1.conv\2.norm.', key)
        key = key.replace(f'.downsample.{conv}.', f'.{shortcut}')
        key = key.replace(f'.downsample.{norm}.', f'.{shortcut}norm.')
        key = re.sub(r'\.(key_embed|embed|se)\.1\.', r'.\1.0.norm.', key)
        key = re.sub(r'\.(embed|se)\.3\.', r'.\1.2.', key)
        key = key.replace('.embed.4.', '.embed.3.')
        renamed[f'backbone.bottom_up.{key}'] = value
    return renamed


@pytest.mark.parametrize(
    'name',
    [
        'cotnet50', 'cotnext50', 'se_cotnetd_50', 'coat_lite_tiny',
        'coat_lite_small', 'coat_tiny', 'coat_mini', 'container_light',
        'contnet_ti', 'contnet_m', 'contnet_m_relative', 'ctx_resnet50',
        'ctx_convnext_tiny', 'ctx_resnet50_sampling_only_nomask',
        'ctx_resnet50_no_context', 'ctx_resnet50_ctx_stage34',
    ],
)  # fmt: skip
def test_strict_load_and_recognition(name):
    fixture = Fixture(name)
    state = convert_state_dict(fixture.released, name)
    get_model(name).load_state_dict(state, strict=True)
    assert recognise(fixture.released) == name


@pytest.mark.parametrize(
    'wrap',
    [
        lambda s: {'state_dict': s, 'epoch': 3, 'arch': 'cotnet50'},
        lambda s: {'model': s},
        lambda s: {'state_dict_ema': s},
        lambda s: {f'module.{k}': v for k, v in s.items()},
        lambda s: {'state_dict': {f'module.{k}': v for k, v in s.items()}},
        lambda s: {'model': {k: v.numpy() for k, v in s.items()}},
    ],
)
def test_outer_dicts(released, expected, wrap):
    found = convert_state_dict(wrap(released), 'cotnet50')
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[k], v) for k, v in expected.items())


@pytest.mark.parametrize('name', ['cotnet50', 'cotnext50', 'se_cotnetd_50'])
def test_detection_release(name):
    """The backbone's part of a detector, without norm counters."""
    released = Fixture(name).released
    state = detectron2_names(released)
    assert 'backbone.bottom_up.res2.0.conv1.weight' in state
    state['roi_heads.box_head.conv1.weight'] = torch.zeros(1)
    state['backbone.fpn_lateral2.weight'] = torch.zeros(1)
    found = convert_state_dict({'model': state}, name)
    expected = convert_state_dict(released, name)
    expected = {k: v for k, v in expected.items() if 'head.' not in k}
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[k], v) for k, v in expected.items())
    get_backbone(name).load_state_dict(
        {k[len('backbone.') :]: v for k, v in found.items()}, strict=True
    )


def test_unknown_key_is_named(released):
    state = {**released, 'layer1.0.conv2.extra.weight': torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r'conv2\.extra\.weight'):
        convert_state_dict(state, 'cotnet50')


def test_missing_key_is_named(released):
    state = {k: v for k, v in released.items() if k != 'layer2.1.bn3.bias'}
    with pytest.raises(
        CheckpointError,
        match=r'lacks: backbone\.stages\.1\.1\.expand\.1\.bias',
    ):
        convert_state_dict(state, 'cotnet50')


def test_misshapen_tensor_is_named(released):
    state = {**released, 'conv1.weight': torch.zeros(32, 3, 7, 7)}
    with pytest.raises(
        CheckpointError, match=r'conv1\.weight \(32, 3, 7, 7\) instead of'
    ):
        convert_state_dict(state, 'cotnet50')


def test_wrong_model_is_refused(released):
    with pytest.raises(CheckpointError, match="not the released.*'cotnet101'"):
        convert_state_dict(released, 'cotnet101')
    with pytest.raises(CheckpointError, match="not the released.*'cotnext50'"):
        convert_state_dict(released, 'cotnext50')


def test_stranger_is_not_recognised():
    with pytest.raises(CheckpointError, match='belongs to no model'):
        recognise({'features.0.weight': torch.zeros(3)})


@pytest.mark.parametrize('given', [{}, [1, 2], {'state_dict': {}}, 'weights'])
def test_no_state_dict(given):
    with pytest.raises(CheckpointError, match='no state dict|no tensors'):
        convert_state_dict(given, 'cotnet50')


def test_unknown_model_name(released):
    with pytest.raises(ValueError, match='cotnet55.*Did you mean.*cotnet50'):
        convert_state_dict(released, 'cotnet55')


def test_every_zoo_model_has_a_key_map():
    for name in list_models():
        backbone = getattr(backbones, get_spec(name).backbone['type'])
        assert backbone.key_map is not ContextBackbone.key_map, name


@pytest.fixture(scope='module')
def coat():
    return Fixture('coat_tiny').released


def test_coat_drops_what_the_release_never_uses(coat):
    dropped = examine(coat, 'coat_tiny').dropped
    assert dropped == ['norm1.weight', 'norm1.bias']
    lite = Fixture('coat_lite_tiny').released
    assert sorted(examine(lite, 'coat_lite_tiny').dropped) == [
        f'norm{i}.{kind}' for i in (1, 2, 3) for kind in ('bias', 'weight')
    ]


@pytest.mark.parametrize(
    'alias',
    [
        'serial_blocks2.1.cpe.proj.weight',
        'serial_blocks3.0.factoratt_crpe.crpe.conv_list.1.bias',
        'parallel_blocks.2.factoratt_crpe4.crpe.conv_list.0.weight',
        'parallel_blocks.5.mlp3.fc1.weight',
    ],
)
def test_coat_aliases_must_agree(coat, alias):
    """A shared tensor that the file holds under two names."""
    expected = convert_state_dict(coat, 'coat_tiny')
    once = {k: v for k, v in coat.items() if k != alias}
    found = convert_state_dict(once, 'coat_tiny')
    assert all(torch.equal(found[k], v) for k, v in expected.items())
    copied = {**coat, alias: coat[alias].clone()}
    assert convert_state_dict(copied, 'coat_tiny').keys() == expected.keys()
    differing = {**coat, alias: coat[alias] + 1}
    with pytest.raises(CheckpointError, match=re.escape(alias)):
        convert_state_dict(differing, 'coat_tiny')


def test_coat_in_timm(coat):
    timm = pytest.importorskip('timm')
    state = timm.create_model('coat_tiny').state_dict()
    assert recognise(state) == 'coat_tiny'
    assert examine(state, 'coat_tiny').dropped == []
    assert (
        convert_state_dict(state, 'coat_tiny').keys()
        == convert_state_dict(coat, 'coat_tiny').keys()
    )


def test_container_of_a_training_run():
    """A DeiT checkpoint also holds the averaged weights."""
    released = Fixture('container_light').released
    averaged = {k: v + 1 for k, v in released.items()}
    file = {'model': released, 'model_ema': averaged, 'epoch': 299}
    expected = convert_state_dict(released, 'container_light')
    found = convert_state_dict(file, 'container_light')
    assert all(torch.equal(found[k], v) for k, v in expected.items())
    assert unwrap(file, ema=True).keys() == released.keys()
    key = 'blocks1.0.norm1.weight'
    assert torch.equal(unwrap(file, ema=True)[key], released[key] + 1)


def test_coat_of_a_detector(coat):
    state = {
        f'backbone.{k}': v
        for k, v in coat.items()
        if not k.startswith(('norm', 'head', 'aggregate'))
    }
    state['neck.lateral_convs.0.conv.weight'] = torch.zeros(1)
    conversion = examine(state, 'coat_tiny')
    assert conversion.dropped == ['neck.lateral_convs.0.conv.weight']
    assert recognise(state) == 'coat_tiny'
    get_backbone('coat_tiny').load_state_dict(
        {k[len('backbone.') :]: v for k, v in conversion.state_dict.items()},
        strict=True,
    )


def test_contnet_as_the_release_saves_it():
    """With average pooling in the shortcuts, and the index of the biases."""
    released = Fixture('contnet_m_relative').released
    expected = convert_state_dict(released, 'contnet_m_relative')
    state = {}
    for key, value in released.items():
        if key.startswith('layer4'):
            state[key] = value
        else:
            state[key.replace('downsample.', 'downsample.conv.')] = value
    for block in ('layer1.ConTBlock0.ste1', 'layer4.ConTBlock1.ste2'):
        key = f'{block}.attn.relative_position_index'
        state[key] = torch.zeros(49, 49, dtype=torch.long)
    wrapped = {f'module.{k}': v for k, v in state.items()}
    file = {'model': wrapped, 'epoch': 199, 'best_acc1': 80.4}
    found = convert_state_dict(file, 'contnet_m_relative')
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[k], v) for k, v in expected.items())
