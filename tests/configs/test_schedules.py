"""Rates of every ImageNet recipe, beside those of timm's scheduler."""

import functools
import json
import re

import pytest
import torch
from timm.scheduler import CosineLRScheduler

from tests.helpers.recipes import CONFIGS, load, rates

NAMES = [
    name
    for name in CONFIGS
    if 'in1k' in name and not name.startswith('container/dino')
]
STEPS = 5  # per epoch
#: Of each recipe: epochs, epochs of warm-up, first rate, highest and lowest
#: rate, and whether it steps every iteration or once per epoch.
RECIPES = {
    r'cotnet/.*-100e': (100, 5, 0, 0.2, 1e-5, False),
    r'cotnet/.*_8xb56-.*-350e': (350, 5, 1e-4, 0.175, 1e-5, False),
    r'cotnet/.*_8xb64-.*-350e': (350, 5, 1e-4, 0.2, 1e-5, False),
    r'cotnet/.*_8xb80-.*-350e': (350, 5, 1e-4, 0.25, 1e-5, False),
    r'contnet/.*adamw': (200, 10, 0, 5e-4, 0, True),
    r'contnet/.*-sgd-(?!lr0.1)': (200, 10, 0, 0.2, 0, True),
    r'contnet/.*-sgd-lr0.1': (200, 10, 0, 0.1, 0, True),
    r'container/.*-300e': (300, 5, 1e-6, 1e-3, 1e-5, False),
    r'container/.*-200e': (200, 5, 1e-6, 1e-3, 1e-5, False),
    r'coat/.*_8xb256-': (300, 5, 1e-6, 2e-3, 1e-5, False),
    r'coat/.*_8xb128-': (300, 20, 1e-6, 1e-3, 1e-5, False),
    r'coat/.*-6e': (6, 0, 0, 2.5e-6, 5e-6, False),
    r'contextual_cnn/ctx-conv': (300, 20, 1e-7, 1e-3, 1e-7, False),
    r'contextual_cnn/.*resnet': (200, 20, 1e-7, 1e-4, 1e-7, False),
}


@functools.cache
def rates_of_timm(epochs, warm_up, first, highest, lowest, by_iteration):
    """Learning rate at every iteration, no warm-up prefix."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=highest)
    unit = STEPS if by_iteration else 1
    scheduler = CosineLRScheduler(
        optimizer,
        t_initial=epochs * unit,
        lr_min=lowest,
        warmup_t=warm_up * unit,
        warmup_lr_init=first,
        t_in_epochs=not by_iteration,
    )
    seen = []
    for step in range(1, epochs * STEPS + 1):
        seen.append(optimizer.param_groups[0]['lr'])
        scheduler.step_update(step)
        if step % STEPS == 0:
            scheduler.step(step // STEPS)
    return torch.tensor(seen, dtype=torch.double)


@functools.cache
def rates_of(optimizer, schedulers, epochs):
    """The same of a config; most share their schedule with others."""
    seen = rates(json.loads(optimizer), json.loads(schedulers), epochs, STEPS)
    return torch.tensor(seen, dtype=torch.double)


@pytest.mark.parametrize('name', NAMES)
def test_rates_are_those_of_timm(name):
    """So are the mean rate, within 0.2 %, and each of them, within 3 %."""
    (recipe,) = (RECIPES[key] for key in RECIPES if re.match(key, name))
    cfg = load(name)
    seen = rates_of(
        json.dumps(cfg.optim_wrapper.optimizer),
        json.dumps(cfg.param_scheduler),
        cfg.train_cfg.max_epochs,
    )
    expected = rates_of_timm(*recipe)
    assert len(seen) == len(expected)
    assert seen.mean() == pytest.approx(expected.mean().item(), rel=2e-3)
    difference = (seen - expected).abs().max()
    assert difference < 0.03 * expected.max()
    epochs = seen.view(-1, STEPS)
    assert (epochs == epochs[:, :1]).all() != recipe[-1]


def test_all_recipes_are_used():
    assert all(any(re.match(key, name) for name in NAMES) for key in RECIPES)
    assert len(NAMES) == 103
