"""Settings of Container's DINO pre-training that no stock config has."""

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, PARAM_SCHEDULERS

from tests.helpers.recipes import build_on_meta, load

NAME = 'dino_container-light_8xb64-amp-100e_in1k'
STEPS = 2  # per epoch, instead of 2502


@pytest.fixture
def cfg():
    return load(NAME, 'container')


@pytest.fixture
def model(cfg):
    return build_on_meta(cfg)


def test_views(cfg, data_roots):
    dataset = cfg.train_dataloader.dataset
    dataset.data_root = data_roots['data/imagenet']
    views = DATASETS.build(dataset)[0]['inputs']
    assert [tuple(view.shape) for view in views] == (
        [(3, 224, 224)] * 2 + [(3, 96, 96)] * 8
    )
    pipelines = cfg.train_pipeline[1].transforms
    for pipeline, scale, blur in zip(
        pipelines,
        [(0.4, 1.0), (0.4, 1.0), (0.05, 0.4)],
        [1.0, 0.1, 0.5],
    ):
        steps = {step.type: step for step in pipeline}
        crop = steps['RandomResizedCrop']
        assert tuple(crop.crop_ratio_range) == scale
        assert (crop.backend, crop.interpolation) == ('pillow', 'bicubic')
        assert steps['RandomFlip'].prob == 0.5
        jitter = steps['RandomApply']
        assert jitter.prob == 0.8
        (jitter,) = jitter.transforms
        assert jitter == dict(
            type='ColorJitter',
            brightness=0.4,
            contrast=0.4,
            saturation=0.2,
            hue=0.1,
        )
        assert steps['RandomGrayscale'].prob == 0.2
        assert steps['GaussianBlur'].prob == blur
    assert ['Solarize' in [s.type for s in p] for p in pipelines] == (
        [False, True, False]
    )
    assert pipelines[1][-1] == dict(type='Solarize', thr=128, prob=0.2)


def test_batch_is_512(cfg):
    assert 8 * cfg.train_dataloader.batch_size == 512
    assert cfg.auto_scale_lr.base_batch_size == 512
    assert cfg.train_dataloader.drop_last


def test_network(cfg, model):
    assert model.head.last_layer.weight.shape == (65536, 256)
    assert model.head.mlp[0].in_features == 512
    assert model.head.mlp[2].weight.shape == (2048, 2048)
    loss = model.criterion
    assert (loss.student_temp, loss.teacher_temp) == (0.1, 0.04)
    assert loss.center_momentum == 0.9
    assert (1 - model.teacher.momentum, model.teacher.end_momentum) == (
        0.996,
        0,
    )
    norms = [
        m
        for m in model.modules()
        if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)
    ]
    assert norms
    assert all(isinstance(m, torch.nn.SyncBatchNorm) for m in norms)
    assert cfg.model.backbone.drop_path_rate == 0.1
    assert model.backbone.arch_settings[cfg.model.backbone.arch]
    assert (model.classifier.k, model.classifier.temperature) == (10, 0.07)
    assert cfg.train_cfg == dict(
        by_epoch=True, max_epochs=100, val_interval=20
    )


def test_bank_is_the_training_set_as_in_evaluation(cfg):
    (bank,) = (h for h in cfg.custom_hooks if h.type == 'FeatureBank')
    assert bank.dataset == {**cfg.val_dataloader.dataset, 'split': 'train'}


def test_last_layer_is_frozen_for_an_epoch(cfg, model):
    (hook,) = (h for h in cfg.custom_hooks if h.type == 'FrozenFirst')
    assert hook.epochs == 1
    assert [
        name
        for name, _ in model.named_parameters()
        if name.startswith(hook.prefix)
    ] == ['head.last_layer.weight']


def test_rate_and_weight_decay_over_the_training(cfg, model):
    settings = cfg.optim_wrapper
    assert (settings.type, settings.clip_grad) == (
        'AmpOptimWrapper',
        dict(max_norm=3.0),
    )
    settings = dict(settings, type='OptimWrapper')
    wrapper = build_optim_wrapper(model, settings)
    schedulers = [
        PARAM_SCHEDULERS.build(
            scheduler, default_args=dict(optimizer=wrapper, epoch_length=STEPS)
        )
        for scheduler in cfg.param_scheduler
    ]
    decayed, free = split_groups(model, wrapper.optimizer)
    rates, decays = [], []
    for _ in range(100 * STEPS):
        rates.append({group['lr'] for group in decayed + free})
        decays.append({group['weight_decay'] for group in decayed})
        assert {group['weight_decay'] for group in free} == {0}
        wrapper.optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    assert all(len(values) == 1 for values in rates + decays)
    rates = [values.pop() for values in rates]
    decays = [values.pop() for values in decays]
    assert rates[0] == pytest.approx(0, abs=1e-6)
    assert max(rates) == pytest.approx(1e-3)
    assert 9 * STEPS < rates.index(max(rates)) <= 10 * STEPS
    assert rates[55 * STEPS] == pytest.approx((1e-3 + 1e-6) / 2, rel=1e-2)
    assert rates[-1] == pytest.approx(1e-6, rel=0.1)
    assert decays[0] == pytest.approx(0.04)
    assert decays[50 * STEPS] == pytest.approx(0.22)
    assert decays[-1] == pytest.approx(0.4, rel=1e-4)


def test_deit_small_trains_alike(cfg):
    """Its class token is what is compared; there are no norms of batches."""
    deit = load('dino_deit-small_8xb64-amp-100e_in1k', 'container')
    model = build_on_meta(deit)
    assert model.neck is None
    views = torch.zeros(2, 3, 96, 96, device='meta')
    assert model.extract_feat(views).shape == (2, 384)
    assert deit.model.head == dict(cfg.model.head, in_channels=384)
    for key in ('optim_wrapper', 'param_scheduler', 'train_dataloader'):
        assert deit[key] == cfg[key]
    for key in ('loss', 'classifier', 'base_momentum'):
        assert deit.model[key] == cfg.model[key]


def split_groups(model, optimizer):
    """Groups of the student with weight decay, and those without."""
    student = {
        id(p): p
        for name, p in model.named_parameters()
        if not name.startswith('teacher.')
    }
    decayed, free = [], []
    for group in optimizer.param_groups:
        for p in group['params']:
            if id(p) in student:
                (decayed if p.ndim > 1 else free).append(group)
    assert len(decayed) + len(free) == len(student)
    return decayed, free
