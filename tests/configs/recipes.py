"""What a recipe amounts to: optimizer, decay and rates of a config."""

import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, PARAM_SCHEDULERS


def build_on_meta(cfg):
    with torch.device('meta'):
        return MODELS.build(cfg.model)


def optimizer_of(cfg):
    """Model and optimizer of a config; AMP, which asks for a GPU, is off."""
    model = build_on_meta(cfg)
    cfg.optim_wrapper.type = 'OptimWrapper'
    return model, build_optim_wrapper(model, cfg.optim_wrapper).optimizer


def options(model, optimizer, key):
    """An option of each parameter's group, by name of the parameter."""
    found = {
        id(p): group[key]
        for group in optimizer.param_groups
        for p in group['params']
    }
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert len(found) == len(named)
    return {name: found[id(p)] for name, p in named.items()}


def decays(model, optimizer):
    """Weight decay of each parameter, by name."""
    return options(model, optimizer, 'weight_decay')


def rates(cfg, epoch_length):
    """Learning rate at every iteration of all epochs."""
    optimizer = torch.optim.SGD(
        [torch.zeros(1)], lr=cfg.optim_wrapper.optimizer.lr
    )
    schedulers = []
    for schedule in cfg.param_scheduler:
        schedule = dict(schedule, optimizer=optimizer)
        if schedule.pop('convert_to_iter_based', False):
            scheduler = PARAM_SCHEDULERS.get(schedule.pop('type'))
            scheduler = scheduler.build_iter_from_epoch(
                **schedule, epoch_length=epoch_length
            )
        else:
            scheduler = PARAM_SCHEDULERS.build(schedule)
        schedulers.append(scheduler)
    seen = []
    for step in range(cfg.train_cfg.max_epochs * epoch_length):
        seen.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        for scheduler in schedulers:
            if not scheduler.by_epoch or (step + 1) % epoch_length == 0:
                scheduler.step()
    return seen
