import pytest
import torch
from mmengine.registry import DefaultScope

import mmctx
from mmctx.zoo import TASKS

PAPER = {
    # Millions of parameters; an int where only whole millions are published.
    # CoTNet: Tables 3 and 4.
    'cotnet50': 22.2,
    'cotnet101': 38.3,
    'cotnext50': 30.1,
    'cotnext101': 53.4,
    'se_cotnetd_50': 23.1,
    'se_cotnetd_101': 40.9,
    'se_cotnetd_152': 55.8,
    'se_cotnetd_152_320': 55.8,
    # CoaT: Tables 1 and 2.
    'coat_lite_tiny': 5.7,
    'coat_lite_mini': 11,
    'coat_lite_small': 20,
    'coat_lite_medium': 45,
    'coat_lite_medium_384': 45,
    'coat_tiny': 5.5,
    'coat_mini': 10,
    'coat_small': 22,
    # Container: Table 1; the released network as in its own listing.
    'container_light': 20.634,
    'container_light_paper': 20.0,
    # ConTNet: Table 2. What the others count, test_contnet.py says.
    'contnet_s': 10.1,
}


def test_list_models():
    names = mmctx.list_models()
    assert set(PAPER) <= set(names)
    assert mmctx.list_models('cotne*50') == ['cotnet50', 'cotnext50']
    assert 'se_cotnetd_101' in mmctx.list_models('cotnetd')
    assert mmctx.list_models('nothing') == []
    for task in TASKS[:3]:
        assert 'cotnet50' in mmctx.list_models(task=task)
    assert 'se_cotnetd_152' not in mmctx.list_models(task='detection')
    with pytest.raises(ValueError, match="got 'tracking'"):
        mmctx.list_models(task='tracking')


@pytest.mark.parametrize('name', sorted(PAPER))
def test_parameters_as_published(name):
    with torch.device('meta'):
        backbone = mmctx.get_backbone(name)
    classifier = backbone.out_channels[-1] * 1000 + 1000
    count = sum(p.numel() for p in backbone.parameters()) + classifier
    rounding = 0.5 if isinstance(PAPER[name], int) else 0
    assert count / 1e6 == pytest.approx(PAPER[name], rel=0.01, abs=rounding)


@pytest.mark.parametrize(
    'overrides, params',
    [
        # Table 5
        (dict(context='static'), 17.07),
        (dict(context='dynamic'), 20.32),
        (dict(context='linear'), 20.32),
        # Table 6
        (dict(cot_stages=()), 25.56),
        (dict(cot_stages=(3,)), 23.46),
        (dict(cot_stages=(2, 3)), 22.42),
        (dict(cot_stages=(1, 2, 3)), 22.25),
    ],
)
def test_ablations_as_published(overrides, params):
    with torch.device('meta'):
        backbone = mmctx.get_backbone('cotnet50', **overrides)
    count = sum(p.numel() for p in backbone.parameters()) + 2049 * 1000
    assert count / 1e6 == pytest.approx(params, abs=0.006)


def test_get_model():
    model = mmctx.get_model('cotnet50', num_classes=5, depth=14).eval()
    x = torch.randn(1, 3, 64, 64)
    assert model(x).shape == (1, 5)
    assert len(model.backbone(x)) == 4


def test_unknown_names():
    with pytest.raises(ValueError, match='Did you mean.*cotnet50'):
        mmctx.get_backbone('cotnet-50')
    with pytest.raises(ValueError, match='depth must be one of'):
        mmctx.get_backbone('cotnet50', depth=51)


@pytest.mark.parametrize('scope', ['mmengine', 'mmdet', 'mmseg'])
def test_get_model_in_any_default_scope(scope):
    pytest.importorskip(scope)
    with DefaultScope.overwrite_default_scope(scope), torch.device('meta'):
        model = mmctx.get_model('cotnet50', num_classes=3)
    assert model.head.fc.out_features == 3
