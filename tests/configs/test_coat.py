"""Training rules of CoaT that no stock config has."""

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import CosineAnnealingLR, build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope

from tests.scripts import ROOT


def load(name):
    cfg = Config.fromfile(ROOT / f'configs/coat/{name}.py')
    init_default_scope(cfg.default_scope)
    return cfg


def optimizer_of(cfg):
    """Model and optimizer of a config; AMP, which asks for a GPU, is off."""
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    cfg.optim_wrapper.type = 'OptimWrapper'
    return model, build_optim_wrapper(model, cfg.optim_wrapper).optimizer


def test_one_dimensional_parameters_of_classifiers_do_not_decay():
    cfg = load('coat-lite-tiny_8xb256-300e_in1k')
    model, optimizer = optimizer_of(cfg)
    decay = {
        id(p): group['weight_decay']
        for group in optimizer.param_groups
        for p in group['params']
    }
    assert len(decay) == len(list(model.parameters()))
    for name, p in model.named_parameters():
        assert decay[id(p)] == (0.05 if p.ndim > 1 else 0), name


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
    rate = cfg.optim_wrapper.optimizer.lr
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=rate)
    (schedule,) = cfg.param_scheduler
    assert schedule.pop('type') == 'CosineAnnealingLR'
    scheduler = CosineAnnealingLR(optimizer, **schedule)
    rates = []
    for _ in range(cfg.train_cfg.max_epochs):
        rates.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        scheduler.step()
    assert rates == sorted(rates)
    assert rates[0] == 2.5e-6
    assert rates[-1] == pytest.approx(4.83e-6, rel=1e-3)
