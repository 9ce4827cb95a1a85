"""The recipes of Container: what the paper and its release fix."""

import functools
from collections import Counter

import pytest
import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATA_SAMPLERS, DATASETS
from mmengine.utils.dl_utils.parrots_wrapper import SyncBatchNorm
from torch import nn

from mmctx.models.layers import ContextAggregation
from tests.helpers import recipes
from tests.helpers.recipes import build_on_meta, decays, optimizer_of

LIGHT = 'container-light_8xb128-300e_in1k'
PAM = 'container-pam-deit-small_8xb128-300e_in1k'
DEIT = 'deit-small_8xb128-300e_in1k'
IMAGENET = [
    name.split('/')[1]
    for name in recipes.CONFIGS
    if name.startswith('container/') and '00e_in1k' in name
    if 'dino' not in name
]
RETINANET = 'retinanet_container-light_fpn_1x_coco'
MASK_RCNN = 'mask-rcnn_container-light_fpn_amp-ms-crop-1x_coco'
# The sizes that the paper counts.
RETINANET_PAPER = 'retinanet_container-light-paper_fpn_1x_coco'
MASK_RCNN_PAPER = 'mask-rcnn_container-light-paper_fpn_amp-ms-crop-1x_coco'

load = functools.partial(recipes.load, folder='container')


def test_all_rows_are_there():
    assert len(IMAGENET) == 20


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


@pytest.mark.parametrize(
    'name', [LIGHT, 'h-mh-mlp-lr_8xb128-300e_in1k', PAM, DEIT]
)
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
        (name + share, count)
        for name in (LIGHT, DEIT)
        for share, count in (
            ('', 1300),
            ('-80pct', 1040),
            ('-50pct', 650),
            ('-10pct', 130),
        )
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
        dataset_cfg = loader.dataset
        dataset_cfg.get('dataset', dataset_cfg).data_root = str(tmp_path)
        dataset = DATASETS.build(dataset_cfg)
        labels = Counter(dataset.get_gt_labels().tolist())
        assert labels == {3: expected, 999: expected}
        assert [type(t).__name__ for t in dataset.pipeline.transforms] == [
            step.type
            for step in dataset_cfg.get('dataset', dataset_cfg).pipeline
        ]


@pytest.mark.parametrize('name', [LIGHT, DEIT])
def test_a_share_trains_as_long(name):
    whole = load(name)
    for share in (80, 50, 10):
        cfg = load(f'{name}-{share}pct')
        for key in ('model', 'train_cfg', 'param_scheduler', 'optim_wrapper'):
            assert cfg[key] == whole[key]
        loader = dict(cfg.train_dataloader)
        dataset = loader.pop('dataset')
        assert dataset.type == 'StratifiedSubset'
        assert dataset.fraction == share / 100
        assert dict(loader, dataset=dataset.dataset) == whole.train_dataloader


@pytest.mark.parametrize(
    'name, weight_decay, norms_decay, warm_up',
    [
        (RETINANET, 1e-4, True, 500),
        (RETINANET_PAPER, 1e-4, True, 500),
        (MASK_RCNN, 0.05, False, 1000),
        (MASK_RCNN_PAPER, 0.05, False, 1000),
    ],
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
    assert cfg.optim_wrapper.get('clip_grad') is None
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


def test_retinanet_trains_at_one_scale_in_full_precision():
    cfg = load(RETINANET)
    assert cfg.optim_wrapper.type == 'OptimWrapper'
    for loader in (cfg.train_dataloader, cfg.test_dataloader):
        (resize,) = (s for s in loader.dataset.pipeline if s.type == 'Resize')
        assert (resize.scale, resize.keep_ratio) == ((1333, 800), True)


def test_mask_rcnn_trains_at_several_scales_in_mixed_precision():
    """As Swin-T's 43.7 in the same table: half of the images cropped."""
    cfg = load(MASK_RCNN)
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
    (choice,) = (
        step
        for step in cfg.train_dataloader.dataset.pipeline
        if step.type == 'RandomChoice'
    )
    plain, cropped = choice.transforms
    assert [step.type for step in cropped] == [
        'RandomChoiceResize', 'RandomCrop', 'RandomChoiceResize'
    ]  # fmt: skip
    for resize in (plain[0], cropped[2]):
        assert [tuple(scale) for scale in resize.scales] == [
            (side, 1333) for side in range(480, 801, 32)
        ]


@pytest.mark.parametrize(
    'name, millions',
    [
        ('container-light-paper_8xb128-300e_in1k', 20.0),
        (MASK_RCNN_PAPER, 39.6),
        (RETINANET_PAPER, 29.7),
    ],
)
def test_sizes_that_the_paper_counts(name, millions):
    model = build_on_meta(load(name))
    count = sum(p.numel() for p in model.parameters())
    assert count == pytest.approx(millions * 1e6, rel=2e-3)
    cfg, released = load(name), load(name.replace('light-paper', 'light'))
    assert cfg.model.backbone.pop('arch') == 'light_paper'
    assert released.model.backbone.pop('arch') == 'light'
    for model in (cfg.model, released.model):
        model.backbone.pop('init_cfg', None)
    for key in ('model', 'optim_wrapper', 'param_scheduler', 'train_cfg'):
        assert cfg[key] == released[key]


def test_container_trains_for_200_epochs_as_for_300():
    short, long = (
        load(f'container_8xb128-{epochs}e_in1k') for epochs in (200, 300)
    )
    assert (short.train_cfg.max_epochs, long.train_cfg.max_epochs) == (
        200,
        300,
    )
    for key in ('model', 'optim_wrapper', 'train_dataloader', 'custom_hooks'):
        assert short[key] == long[key]


def test_deit_is_pam_without_its_table():
    deit, pam = (build_on_meta(load(name)) for name in (DEIT, PAM))
    count = sum(p.numel() for p in deit.parameters())
    assert count == pytest.approx(22.05e6, rel=1e-3)
    tables = [n for n, _ in pam.named_parameters() if 'static' in n]
    assert len(tables) == 12


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
