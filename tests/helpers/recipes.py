"""What a recipe amounts to: optimizer, decay and rates of a config."""

import copy
import functools

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, PARAM_SCHEDULERS, init_default_scope

from tests.helpers.scripts import ROOT

#: All experiments, as paths below `configs` without a suffix.
CONFIGS = sorted(
    path.relative_to(ROOT / 'configs').with_suffix('').as_posix()
    for path in (ROOT / 'configs').rglob('*.py')
    if '_base_' not in path.parts
)


@functools.cache
def _read(path):
    return Config.fromfile(path)


def load(name, folder=''):
    """The config of an experiment, to change at will; its scope is set."""
    cfg = copy.deepcopy(_read(ROOT / 'configs' / folder / f'{name}.py'))
    init_default_scope(cfg.default_scope)
    return cfg


def build_on_meta(cfg):
    with torch.device('meta'):
        return MODELS.build(cfg.model)


def optimizer_of(cfg, build=build_on_meta):
    """Model and optimizer of a config; AMP, which asks for a GPU, is off."""
    model = build(cfg)
    cfg.optim_wrapper.type = 'OptimWrapper'
    return model, build_optim_wrapper(model, cfg.optim_wrapper).optimizer


def options(model, optimizer, key):
    """An option of each parameter's group, by name of the parameter."""
    values = {
        id(p): group[key]
        for group in optimizer.param_groups
        for p in group['params']
    }
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert len(values) == len(named)
    return {name: values[id(p)] for name, p in named.items()}


def decays(model, optimizer):
    """Weight decay of each parameter, by name."""
    return options(model, optimizer, 'weight_decay')


def rates(optimizer, schedulers, epochs, epoch_length):
    """Learning rate at every iteration of all epochs.

    Args:
        optimizer (dict): Config of the optimizer.
        schedulers (list[dict]): Configs of its schedulers.
        epochs, epoch_length (int): Number of epochs, and of their iterations.
    """
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=optimizer['lr'])
    schedulers = [
        PARAM_SCHEDULERS.build(
            config,
            default_args=dict(optimizer=optimizer, epoch_length=epoch_length),
        )
        for config in schedulers
    ]
    seen = []
    for step in range(1, epochs * epoch_length + 1):
        seen.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        for scheduler in schedulers:
            if not scheduler.by_epoch or step % epoch_length == 0:
                scheduler.step()
    return seen
