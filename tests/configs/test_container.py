"""The recipes of Container: what the paper and its release fix."""

from collections import Counter

import pytest
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import (
    DATA_SAMPLERS,
    DATASETS,
    init_default_scope,
)
from mmengine.utils.dl_utils.parrots_wrapper import SyncBatchNorm
from torch import nn

from mmctx.models.layers import ContextAggregation
from tests.configs.recipes import build_on_meta, decays, optimizer_of, rates
from tests.scripts import ROOT

LIGHT = 'container-light_8xb128-300e_in1k'
PAM = 'container-pam-deit-small_8xb128-300e_in1k'
IMAGENET = sorted(
    path.stem for path in (ROOT / 'configs/container').glob('*-300e_in1k*.py')
)
RETINANET = 'retinanet_container-light_fpn_1x_coco'
MASK_RCNN = 'mask-rcnn_container-light_fpn_1x_coco'


def load(name):
    cfg = Config.fromfile(ROOT / f'configs/container/{name}.py')
    init_default_scope(cfg.default_scope)
    return cfg


def test_all_rows_are_there():
    assert len(IMAGENET) == 14


@pytest.mark.parametrize('name', IMAGENET)
def test_every_row_trains_alike(name):
    """Batch, averages, mixed precision and length of the release."""
    cfg = load(name)
    assert cfg.train_dataloader.batch_size * 8 == 1024
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=1024)
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
    assert cfg.optim_wrapper.get('clip_grad') is None
    (hook,) = cfg.custom_hooks
    assert hook.type == 'EMAHook' and hook.update_buffers
    assert hook.momentum == pytest.approx(1 - 0.99996)
    assert (hook.evaluate_on_ema, hook.evaluate_on_origin) == (False, True)
    mixes = [(a.type, a.alpha) for a in cfg.model.train_cfg.augments]
    assert mixes == [('Mixup', 0.8), ('CutMix', 1.0)]
    assert cfg.model.train_cfg.get('probs') is None
    loss = cfg.model.head.loss
    assert (loss.type, loss.label_smooth_val) == ('LabelSmoothLoss', 0.1)
    sampler = DATA_SAMPLERS.build(
        dict(cfg.train_dataloader.sampler, dataset=range(30), seed=0)
    )
    assert len(sampler) == 30
    assert set(Counter(sampler).values()) == {3}


def test_rate_over_the_epochs():
    seen = rates(load(LIGHT), epoch_length=4)
    assert len(seen) == 300 * 4
    assert seen[0] == pytest.approx(1e-6)
    assert max(seen) == pytest.approx(1e-3)
    assert seen.index(max(seen)) in (5 * 4 - 1, 5 * 4)
    assert seen[-1] == pytest.approx(1e-5, rel=0.01)
    assert seen[:20] == sorted(seen[:20])
    later = [seen[i : i + 4] for i in range(20, 1200, 4)]
    assert all(len(set(epoch)) == 1 for epoch in later), 'steps per epoch'
    assert later == sorted(later, reverse=True)


@pytest.mark.parametrize('name', [LIGHT, 'h-mh-mlp-lr_8xb128-300e_in1k', PAM])
def test_what_decays_in_classifiers(name):
    model, optimizer = optimizer_of(load(name))
    assert type(optimizer) is torch.optim.AdamW
    (options,) = {
        (*group['betas'], group['eps'], group['lr'])
        for group in optimizer.param_groups
    }
    assert options == (0.9, 0.999, 1e-8, 1e-3)
    shapes = dict(model.named_parameters())
    for label, decay in decays(model, optimizer).items():
        exempt = label in ('backbone.cls_token', 'backbone.pos_embed')
        has_decay = shapes[label].ndim > 1 and not exempt
        assert decay == (0.05 if has_decay else 0), label


@pytest.mark.parametrize('name', [*IMAGENET, RETINANET, MASK_RCNN])
def test_drop_path_grows_to_a_tenth(name):
    backbone = build_on_meta(load(name)).backbone
    probabilities = [
        module.drop_prob
        for module in backbone.modules()
        if hasattr(module, 'drop_prob')
    ]
    assert probabilities == sorted(probabilities)
    assert probabilities[-1] == pytest.approx(0.1)
    assert 0 <= probabilities[0] < 0.01


#: Dynamic affinity in stages 1 and 4; kind of static one, its shape in the
#: last stage.
ROWS = {
    'container': (True, True, (512, 1, 5, 5)),
    'container-light': (False, True, (512, 1, 5, 5)),
    'h-deit-small': (True, True, None),
    'h-conv3': (False, False, (512, 512, 3, 3)),
    'h-groupconv3': (False, False, (512, 64, 3, 3)),
    'h-dw3': (False, False, (512, 1, 3, 3)),
    'h-mhdw3': (False, False, (16, 1, 3, 3)),
    'h-mlp': (False, False, [(1, 49, 49)]),
    'h-mlp-lr': (False, False, [(1, 14, 49), (1, 49, 14)]),
    'h-mh-mlp-lr': (False, False, [(16, 8, 49), (16, 49, 8)]),
}


@pytest.mark.parametrize('row', ROWS)
def test_affinities_of_the_rows(row):
    """Table 2: heads of 32 channels, one kind of static affinity."""
    first, last, shape = ROWS[row]
    backbone = build_on_meta(load(f'{row}_8xb128-300e_in1k')).backbone
    assert [len(stage) for stage in backbone.stages] == [3, 4, 8, 3]
    layers = [stage[0].aggregation for stage in backbone.stages]
    assert (layers[0].has_dynamic, layers[3].has_dynamic) == (first, last)
    for layer in layers:
        if layer.has_dynamic:
            assert layer.channels == 32 * layer.num_heads
    static = layers[3].static
    if shape is None:
        assert static is None
    elif isinstance(shape, list):
        assert [tuple(f.shape) for f in static.factors] == shape
    else:
        assert static.weight.shape == shape


def test_pam_is_deit_small():
    backbone = build_on_meta(load(PAM)).backbone
    layers = [
        m for m in backbone.modules() if isinstance(m, ContextAggregation)
    ]
    assert (len(layers), backbone.embed_dims) == (12, 384)
    for layer in layers:
        assert layer.num_heads == 6
        (table,) = layer.static.factors
        assert table.shape == (1, 197, 197)
        assert layer.mixing_weight.shape == (1,)


@pytest.mark.parametrize(
    'name, per_class',
    [
        (LIGHT, 1300),
        (f'{LIGHT}-80pct', 1040),
        (f'{LIGHT}-50pct', 650),
        (f'{LIGHT}-10pct', 130),
    ],
)
def test_share_of_the_training_images(name, per_class, tmp_path):
    """Of each class alike; validation has all images."""
    cfg = load(name)
    for split, count in (('train', 1300), ('val', 50)):
        (tmp_path / 'meta').mkdir(exist_ok=True)
        (tmp_path / f'meta/{split}.txt').write_text(
            '\n'.join(
                f'{label}/{split}_{i}.JPEG {label}'
                for label in (3, 999)
                for i in range(count)
            )
        )
    for loader, expected in (
        (cfg.train_dataloader, per_class),
        (cfg.val_dataloader, 50),
        (cfg.test_dataloader, 50),
    ):
        given = loader.dataset
        given.get('dataset', given).data_root = str(tmp_path)
        dataset = DATASETS.build(given)
        labels = Counter(dataset.get_gt_labels().tolist())
        assert labels == {3: expected, 999: expected}
        assert [type(t).__name__ for t in dataset.pipeline.transforms] == [
            step.type for step in given.get('dataset', given).pipeline
        ]


def test_a_share_trains_as_long():
    whole = load(LIGHT)
    for share in (80, 50, 10):
        cfg = load(f'{LIGHT}-{share}pct')
        for key in ('model', 'train_cfg', 'param_scheduler', 'optim_wrapper'):
            assert cfg[key] == whole[key]
        loader = dict(cfg.train_dataloader)
        dataset = loader.pop('dataset')
        assert dataset.type == 'StratifiedSubset'
        assert dataset.fraction == share / 100
        assert dict(loader, dataset=dataset.dataset) == whole.train_dataloader


@pytest.mark.parametrize(
    'name, weight_decay, norms_decay, warm_up',
    [(RETINANET, 1e-4, True, 500), (MASK_RCNN, 0.05, False, 1000)],
)
def test_detectors(name, weight_decay, norms_decay, warm_up):
    cfg = load(name)
    assert cfg.train_dataloader.batch_size * 8 == 16
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=16)
    assert cfg.train_cfg.max_epochs == 12
    first, then = cfg.param_scheduler
    assert (first.start_factor, first.end, first.by_epoch) == (
        0.001,
        warm_up,
        False,
    )
    assert then.milestones == [8, 11]
    assert cfg.optim_wrapper.type == 'OptimWrapper'
    assert cfg.optim_wrapper.get('clip_grad') is None
    for loader in (cfg.train_dataloader, cfg.test_dataloader):
        (resize,) = (s for s in loader.dataset.pipeline if s.type == 'Resize')
        assert (resize.scale, resize.keep_ratio) == ((1333, 800), True)
    model, optimizer = optimizer_of(cfg)
    assert type(optimizer) is torch.optim.AdamW
    assert {group['lr'] for group in optimizer.param_groups} == {1e-4}
    norms = {
        f'{label}.{name}'
        for label, module in model.named_modules()
        if isinstance(module, (SyncBatchNorm, nn.LayerNorm))
        for name, _ in module.named_parameters()
    }
    assert norms
    for label, decay in decays(model, optimizer).items():
        has_decay = norms_decay or label not in norms
        assert decay == (weight_decay if has_decay else 0), label


@pytest.mark.parametrize('name', [RETINANET, MASK_RCNN])
def test_norms_of_detectors_are_synchronised(name):
    """And train: statistics over 16 images, not over 2."""
    model = build_on_meta(load(name)).train()
    norms = [
        m
        for m in model.backbone.modules()
        if isinstance(m, nn.modules.batchnorm._BatchNorm)
    ]
    assert len(norms) == 2 * 18
    assert all(isinstance(m, SyncBatchNorm) and m.training for m in norms)
    assert not any(
        isinstance(m, SyncBatchNorm)
        for m in revert_sync_batchnorm(model).modules()
    )
    init = load(name).model.backbone.init_cfg
    assert init.checkpoint == 'mmctx://container_light'


def test_retinanet_starts_at_stride_8():
    cfg = load(RETINANET)
    model = build_on_meta(cfg)
    inputs = [conv.conv.in_channels for conv in model.neck.lateral_convs]
    assert inputs == [128, 320, 512]
    assert load(MASK_RCNN).model.neck.in_channels == [64, 128, 320, 512]
