"""The recipe of CONTRIBUTING.md for a backbone, tried."""

import re

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS

import mmctx
from mmctx import zoo
from mmctx.checkpoints import convert_state_dict, load_backbone
from tests.helpers.backbones import TINY, build_tiny
from tests.helpers.scripts import ROOT

STEPS = re.compile(r'^\d+\. `([^`]+)`', re.MULTILINE)


def recipe():
    """Places that CONTRIBUTING.md names for a backbone."""
    text = (ROOT / 'CONTRIBUTING.md').read_text()
    section = text.split('## A backbone')[1].split('\n## ')[0]
    return STEPS.findall(section)


def test_at_most_twelve_places():
    assert 0 < len(recipe()) <= 12


@pytest.mark.parametrize(
    'family, layer',
    [
        ('coat', 'conv_attention'),
        ('container', 'context_aggregation'),
        ('contnet', 'patch_encoder'),
        ('cotnet', 'cot'),
        ('contextual_cnn', 'contextual_conv'),
    ],
)
def test_the_places_are_those_of_the_five_families(family, layer):
    for place in recipe():
        place = place.replace('FAMILY', family).replace('LAYER', layer)
        assert (ROOT / place).exists(), place


def test_it_inherits_the_contracts():
    """They are parametrised with the tiny instances."""
    assert 'SixthNet' in TINY


def test_it_resolves_in_configs():
    cfg = Config.fromfile(
        ROOT / 'configs/digit_scenes/cotnet-14_digit-scenes.py'
    )
    cfg.model.backbone = dict(type='SixthNet', out_indices=(3,))
    cfg.model.head.in_channels = 32
    model = MODELS.build(cfg.model.backbone)
    assert model.out_channels == (32,)


def released():
    """A file as the authors' code would write it."""
    renamed = {
        re.sub(
            r'^(stem|stages)\.',
            lambda m: 'features.' + 'stem.' * (m[1] == 'stem'),
            key,
        ): torch.full_like(value, i)
        for i, (key, value) in enumerate(
            build_tiny('SixthNet').state_dict().items()
        )
    }
    return {
        'state_dict': {
            **renamed,
            'classifier.weight': torch.zeros(5, 32),
            'classifier.bias': torch.zeros(5),
        }
    }


def test_released_weights_load(tmp_path):
    torch.save(released(), tmp_path / 'released.pth')
    backbone = build_tiny('SixthNet')
    load_backbone(backbone, str(tmp_path / 'released.pth'))
    values = [v.flatten()[0].item() for v in backbone.state_dict().values()]
    assert values == list(range(len(values)))


def test_it_is_a_model_by_name(monkeypatch):
    spec = zoo.ModelSpec(dict(type='SixthNet', arch='tiny'))
    monkeypatch.setitem(zoo._SPECS, 'sixth_tiny', spec)
    assert mmctx.list_models('sixth*') == ['sixth_tiny']
    model = mmctx.get_model('sixth_tiny', num_classes=5).eval()
    state = convert_state_dict(released(), 'sixth_tiny')
    model.load_state_dict(state, strict=True)
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 5)
