"""Training rules of CoaT that no stock config has."""

import functools

import pytest

from tests.helpers import recipes
from tests.helpers.recipes import decays, optimizer_of, rates

load = functools.partial(recipes.load, folder='coat')


def test_one_dimensional_parameters_of_classifiers_do_not_decay():
    cfg = load('coat-lite-tiny_8xb256-300e_in1k')
    model, optimizer = optimizer_of(cfg)
    shapes = dict(model.named_parameters())
    for name, decay in decays(model, optimizer).items():
        assert decay == (0.05 if shapes[name].ndim > 1 else 0), name


@pytest.mark.parametrize(
    'name',
    [
        'mask-rcnn_coat-lite-mini_fpn_amp-ms-crop-1x_coco',
        'cascade-mask-rcnn_coat-lite-small_fpn_4conv1fc-giou_'
        'amp-ms-crop-3x_coco',
    ],
)
def test_all_parameters_of_detectors_decay_alike(name):
    cfg = load(name)
    cfg.model.backbone.arch = 'lite_tiny'
    model, optimizer = optimizer_of(cfg)
    (group,) = optimizer.param_groups
    assert group['weight_decay'] == 0.05
    assert group['lr'] == 1e-4
    assert len(group['params']) == len(list(model.parameters()))


def test_rate_rises_in_fine_tuning():
    cfg = load('coat-lite-medium_8xb32-6e_in1k-384px')
    seen = rates(cfg.optim_wrapper.optimizer, cfg.param_scheduler, 6, 1)
    assert cfg.train_cfg.max_epochs == 6
    assert seen == sorted(seen)
    assert seen[0] == 2.5e-6
    assert seen[-1] == pytest.approx(4.83e-6, rel=1e-3)
