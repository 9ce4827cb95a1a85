import pytest
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from torch import nn

import mmctx
from mmctx.engine.checks import MisfitError
from mmctx.engine.optimizers.backbone_layer_decay import check_layer_decay
from tests.helpers.backbones import build_tiny


class Model(nn.Module):
    def __init__(self, name, **options):
        super().__init__()
        self.backbone = build_tiny(name, **options)
        self.head = nn.Linear(2, 2)


def options_of(model, layer_decay, **paramwise):
    """Learning rate and weight decay of each parameter, by name."""
    optimizer = build_optim_wrapper(
        model,
        dict(
            optimizer=dict(type='AdamW', lr=1.0, weight_decay=0.1),
            constructor='BackboneLayerDecay',
            paramwise_cfg=dict(layer_decay=layer_decay, **paramwise),
        ),
    ).optimizer
    by_id = {
        id(p): (group['lr'], group['weight_decay'])
        for group in optimizer.param_groups
        for p in group['params']
    }
    return {
        name: by_id[id(p)]
        for name, p in model.named_parameters()
        if p.requires_grad
    }


def test_three_blocks_to_a_layer():
    """Depths 1, 2, 3, 1: layers of stem, 3, 3 and 1 blocks, and the head."""
    model = Model('ContextualConvNeXt')
    groups = options_of(model, dict(rate=0.5, blocks_per_layer=3))
    rates = {name: lr for name, (lr, _) in groups.items()}
    for name, layers_after in (
        ('head.weight', 0),
        ('backbone.stages.3.0.norm.weight', 1),
        ('backbone.stages.2.2.norm.weight', 2),
        ('backbone.stages.2.0.downsample.conv.weight', 2),
        ('backbone.stages.1.1.norm.weight', 3),
        ('backbone.stages.0.0.norm.weight', 3),
        ('backbone.stem.proj.weight', 4),
    ):
        assert rates[name] == 0.5**layers_after, name


def test_one_block_to_a_layer():
    groups = options_of(Model('CoTNet'), dict(rate=0.5))
    assert groups['head.bias'][0] == 1
    assert groups['backbone.stages.3.0.reduce.0.weight'][0] == 0.5
    assert groups['backbone.stages.0.0.reduce.0.weight'][0] == 0.5**4
    assert {v for k, (v, _) in groups.items() if 'stem' in k} == {0.5**5}


def test_other_rules_stay():
    groups = options_of(
        Model('ContextualConvNeXt'),
        dict(rate=0.5, blocks_per_layer=8),
        flat_decay_mult=0.0,
        custom_keys={'head.bias': dict(lr_mult=4.0, decay_mult=2.0)},
    )
    assert groups['head.bias'] == (4.0, 0.2)
    assert groups['head.weight'] == (1.0, 0.1)
    assert groups['backbone.stages.0.0.mlp.fc1.weight'] == (0.5, 0.1)
    assert groups['backbone.stages.0.0.mlp.fc1.bias'] == (0.5, 0.0)
    assert groups['backbone.stem.proj.bias'] == (0.25, 0.0)


@pytest.mark.parametrize(
    'layer_decay',
    [
        None,
        dict(rate=0.0),
        dict(rate=1.5),
        dict(rate=0.9, blocks_per_layer=0),
        dict(rate=0.9, blocks=3),
        dict(blocks_per_layer=3),
    ],
)
def test_wrong_options(layer_decay):
    with pytest.raises(ValueError, match='layer_decay=dict'):
        options_of(Model('CoTNet'), layer_decay)


def test_backbones_without_depth():
    model = Model('CoTNet')
    model.backbone = nn.Linear(2, 2)
    with pytest.raises(TypeError, match='Linear as its backbone'):
        options_of(model, dict(rate=0.9))


STOCK = 'LearningRateDecayOptimizerConstructor'


@pytest.mark.parametrize('constructor', [STOCK, f'mmdet.{STOCK}'])
@pytest.mark.parametrize('name', ['ContextualConvNeXt', 'CoTNet'])
def test_layer_decay(name, constructor):
    """That of mmdet takes ContextualConvNeXt for ConvNeXt."""
    model = Model(name)
    optim_wrapper = dict(
        constructor=constructor,
        paramwise_cfg=dict(decay_rate=0.7, num_layers=6),
    )
    with pytest.raises(
        MisfitError,
        match=rf"not in {name}\. Write constructor='BackboneLayerDecay'.*"
        r'rate=0\.7, ',
    ):
        check_layer_decay(optim_wrapper, model)
    optim_wrapper['constructor'] = 'BackboneLayerDecay'
    check_layer_decay(optim_wrapper, model)


def test_layer_decay_of_other_backbones():
    model = nn.ModuleDict(dict(backbone=nn.Identity()))
    check_layer_decay(dict(constructor=STOCK), model)


def test_layer_decay_of_mmpretrain_goes_by_depth():
    """Its constructor asks the backbone, so ours need no other."""
    model = mmctx.get_model('cotnet50', depth=14, num_classes=2)
    init_default_scope('mmpretrain')
    groups = build_optim_wrapper(
        model,
        dict(
            optimizer=dict(type='AdamW', lr=1.0, weight_decay=0.1),
            constructor='LearningRateDecayOptimWrapperConstructor',
            paramwise_cfg=dict(layer_decay_rate=0.5),
        ),
    ).optimizer.param_groups
    rates = {group['param_name']: group['lr'] for group in groups}
    assert rates['head.fc.weight'] == 1
    assert rates['backbone.stem.0.weight'] == 0.5**5
