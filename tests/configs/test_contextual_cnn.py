"""The recipes of Contextual CNN: what the paper and its release fix."""

import functools

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from torch import nn

from mmctx.models.layers import ContextualConv2d
from mmctx.models.layers.stochastic_depth import StochasticDepth
from tests.helpers import recipes
from tests.helpers.recipes import (
    build_on_meta,
    decays,
    optimizer_of,
    options,
)

NAMES = [
    name.split('/')[1]
    for name in recipes.CONFIGS
    if name.startswith('contextual_cnn/')
]
CONVNEXT = [name for name in NAMES if name.startswith('ctx-convnext')]
RESNET = [name for name in NAMES if name.startswith('ctx-resnet50')]
RESNET50 = 'ctx-resnet50_8xb32-200e_in1k'
MASK_RCNN = 'mask-rcnn_ctx-convnext-tiny_fpn_amp-ms-crop-3x_coco'
WITHOUT_DECAY = ('contextualizing.embedding', 'contextualizing.log_scale')


load = functools.partial(recipes.load, folder='contextual_cnn')


def contextual_blocks(backbone):
    """Indices of the contextual blocks of each stage."""
    return [
        [
            i
            for i, block in enumerate(stage)
            if any(isinstance(m, ContextualConv2d) for m in block.modules())
        ]
        for stage in backbone.stages
    ]


def first_contextual(backbone):
    return next(
        m for m in backbone.modules() if isinstance(m, ContextualConv2d)
    )


def test_all_rows_are_there():
    assert (len(CONVNEXT), len(RESNET)) == (3, 12)


@pytest.mark.parametrize('name', CONVNEXT)
def test_convnexts_train_alike(name):
    cfg = load(name)
    assert cfg.train_dataloader.batch_size * 32 == 4096
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=4096)
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
    assert cfg.optim_wrapper.get('clip_grad') is None
    (hook,) = cfg.custom_hooks
    assert (hook.type, hook.momentum) == ('EMAHook', 1e-4)
    assert hook.update_buffers and hook.evaluate_on_origin
    mixes = [(a.type, a.alpha) for a in cfg.model.train_cfg.augments]
    assert mixes == [('Mixup', 0.8), ('CutMix', 1.0)]
    assert cfg.model.train_cfg.get('probs') is None
    steps = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}
    assert steps['RandAugment'].magnitude_level == 9
    assert steps['RandomErasing'].erase_prob == 0.25
    test_steps = cfg.test_dataloader.dataset.pipeline
    assert [s.scale for s in test_steps if s.type == 'ResizeEdge'] == [256]


@pytest.mark.parametrize('name', [*RESNET, 'resnet50_8xb32-200e_in1k'])
def test_resnets_train_alike(name):
    cfg = load(name)
    assert cfg.train_dataloader.batch_size * 8 == 256
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=256)
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
    assert not cfg.get('custom_hooks')
    assert cfg.default_hooks.sync_buffers.type == 'SyncBuffersHook'
    assert 'train_cfg' not in cfg.model, 'no mixup, no CutMix'
    assert [s.type for s in cfg.train_dataloader.dataset.pipeline] == [
        'LoadImageFromFile',
        'RandomResizedCrop',
        'RandomFlip',
        'RandAugment',
        'PackInputs',
    ]
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        (resize,) = (
            s for s in loader.dataset.pipeline if s.type == 'ResizeEdge'
        )
        assert (resize.scale, resize.interpolation) == (235, 'bicubic')


@pytest.mark.parametrize(
    'name, decay, rate', [(CONVNEXT[0], 0.05, 1e-3), (RESNET50, 0.01, 1e-4)]
)
def test_what_decays(name, decay, rate):
    model, optimizer = optimizer_of(load(name))
    assert type(optimizer) is torch.optim.AdamW
    (settings,) = {
        (*group['betas'], group['eps'], group['lr'])
        for group in optimizer.param_groups
    }
    assert settings == (0.9, 0.999, 1e-8, rate)
    shapes = dict(model.named_parameters())
    assert all(f'backbone.{name}' in shapes for name in WITHOUT_DECAY)
    for label, found in decays(model, optimizer).items():
        exempt = shapes[label].ndim < 2 or label.endswith(WITHOUT_DECAY)
        assert found == (0 if exempt else decay), label


@pytest.mark.parametrize('name', [*CONVNEXT, *RESNET])
def test_loss_and_classes(name):
    model = build_on_meta(load(name))
    backbone, loss = model.backbone, model.head.loss_module
    assert (loss.alpha, loss.label_smooth) == (0.15, 0.1)
    layers = backbone.contextualizing
    assert layers.selection == 'rerank'
    assert layers.class_counts == (500, 200, 50)
    assert layers.temperature == 'shared'
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    'arch, drop_path, third',
    [('tiny', 0.1, 9), ('small', 0.4, 27), ('base', 0.5, 27)],
)
def test_convnexts(arch, drop_path, third):
    cfg = load(f'ctx-convnext-{arch}_32xb128-300e_in1k')
    backbone = build_on_meta(cfg).backbone
    assert contextual_blocks(backbone) == [
        [], [0], list(range(0, third, 3)), [0]
    ]  # fmt: skip
    assert [len(stage) for stage in backbone.stages] == [3, 3, third, 3]
    probabilities = [
        module.drop_prob
        for module in backbone.modules()
        if isinstance(module, StochasticDepth)
    ]
    assert probabilities == sorted(probabilities)
    assert probabilities[-1] == pytest.approx(drop_path)
    assert len(probabilities) == third + 9
    assert probabilities[0] == 0 < probabilities[1]


#: Of each row: weight and sampling offsets, mask, contextual stages, scored
#: ones, dimensions of an embedding.
ROWS = {
    '': (True, True, True, '123', '0123', 256),
    '-ctxonly': (False, False, None, '123', '0123', 256),
    '-ctxconv-only': (True, True, True, '', '3', 256),
    '-dcnv2': (False, True, True, '', '0123', 256),
    '-weight-offset': (True, False, None, '123', '0123', 256),
    '-sampling-offset': (False, True, True, '123', '0123', 256),
    '-stage4': (True, True, True, '3', '23', 256),
    '-stage34': (True, True, True, '23', '123', 256),
    '-stage1234': (True, True, True, '0123', '0123', 256),
    '-d64': (True, True, True, '123', '0123', 64),
    '-d128': (True, True, True, '123', '0123', 128),
    '-d512': (True, True, True, '123', '0123', 512),
}


@pytest.mark.parametrize('row', ROWS)
def test_rows_of_the_ablations(row):
    weights, samples, mask, stages, scored, dims = ROWS[row]
    cfg = load(f'ctx-resnet50{row}_8xb32-200e_in1k')
    backbone = build_on_meta(cfg).backbone
    assert [len(stage) for stage in backbone.stages] == [3, 4, 6, 3]
    layers = backbone.contextualizing
    assert ''.join(sorted(layers.merge)) == stages
    assert ''.join(sorted(layers.classify)) == scored
    assert layers.embedding.shape == (1000, dims)
    every_second = [[0, 2], [0, 2], [0, 2, 4], [0, 2]]
    contextual = map(int, stages or '123')
    expected = [[], [], [], []]
    for i in contextual:
        expected[i] = every_second[i]
    assert contextual_blocks(backbone) == expected
    conv = first_contextual(backbone)
    assert (conv.weight_predictor is not None) == weights
    assert (conv.sampling_predictor is not None) == samples
    assert getattr(conv.sampling_predictor, 'mask', None) == mask
    assert bool(conv.context_channels) == bool(stages)


def test_every_row_of_the_ablations_is_tested():
    assert sorted(f'ctx-resnet50{row}_8xb32-200e_in1k' for row in ROWS) == (
        RESNET
    )


def test_mask_rcnn():
    cfg = load(MASK_RCNN)
    assert cfg.train_dataloader.batch_size * 8 == 16
    assert cfg.auto_scale_lr.base_batch_size == 16
    assert cfg.train_cfg.max_epochs == 36
    first, then = cfg.param_scheduler
    assert (first.start_factor, first.end, first.by_epoch) == (
        0.001,
        1000,
        False,
    )
    assert then.milestones == [27, 33]
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
    assert cfg.optim_wrapper.get('clip_grad') is None
    backbone = cfg.model.backbone
    assert backbone.drop_path_rate == 0.4
    assert backbone.init_cfg.checkpoint.startswith('work_dirs/ctx-convnext-t')


def test_mask_rcnn_learns_as_convnexts_does():
    """Rates by layer; what gets no gradient is frozen."""
    model, optimizer = optimizer_of(load(MASK_RCNN))
    assert type(optimizer) is torch.optim.AdamW
    rate = options(model, optimizer, 'lr')
    for start, layers_after in (
        ('backbone.stem.', 7),
        ('backbone.stages.0.2.', 6),
        ('backbone.stages.1.0.downsample.', 5),
        ('backbone.stages.2.2.', 4),
        ('backbone.stages.2.3.', 3),
        ('backbone.stages.2.8.', 2),
        ('backbone.stages.3.', 1),
        ('backbone.contextualizing.merge.2.', 4),
        ('neck.', 0),
        ('rpn_head.', 0),
        ('roi_head.', 0),
    ):
        values = {v for k, v in rate.items() if k.startswith(start)}
        expected = pytest.approx([1e-4 * 0.95**layers_after])
        assert list(values) == expected, start
    shapes = dict(model.named_parameters())
    for label, decay in decays(model, optimizer).items():
        exempt = shapes[label].ndim < 2 or label.endswith(WITHOUT_DECAY)
        assert decay == (0 if exempt else 0.05), label
    frozen = {
        label.split('.')[2] for label, p in shapes.items()
        if not p.requires_grad
    }  # fmt: skip
    assert frozen == {'classify', 'log_scale'}
    assert 'backbone.contextualizing.embedding' in rate


def test_tsm():
    """TSM's groups of parameters, schedule and clips; mmaction2's model."""
    cfg = load('tsm_ctx-resnet50_8xb16-dense-1x1x16-100e_kinetics400-rgb')
    assert cfg.default_scope == 'mmaction'
    assert cfg.train_dataloader.batch_size * 8 == 128
    (schedule,) = cfg.param_scheduler
    assert (schedule.milestones, cfg.train_cfg.max_epochs) == ([40, 80], 100)
    samplers = [
        [step for step in loader.dataset.pipeline if 'Sample' in step.type]
        for loader in (cfg.train_dataloader, cfg.test_dataloader)
    ]
    assert [s.type for (s,) in samplers] == ['DenseSampleFrames'] * 2
    assert [s.num_clips for (s,) in samplers] == [16, 16]
    assert samplers[1][0].num_sample_positions == 10
    assert cfg.model.cls_head.num_segments == 16


@pytest.fixture
def video_classifier():
    """The backbone of the TSM config, and a head as mmaction2 names it."""
    cfg = load('tsm_ctx-resnet50_8xb16-dense-1x1x16-100e_kinetics400-rgb')
    backbone = build_on_meta(Config(dict(model=cfg.model.backbone)))
    head = nn.Module()
    head.fc_cls = nn.Linear(2048, 400, device='meta')
    return cfg, nn.ModuleDict(dict(backbone=backbone, cls_head=head))


def test_backbone_of_tsm_takes_clips(video_classifier):
    _, model = video_classifier
    (features,) = model['backbone'](
        torch.zeros(2 * 16, 3, 64, 64, device='meta')
    )
    assert features.shape == (32, 2048, 2, 2)
    shifts = [m for m in model.modules() if hasattr(m, 'num_segments')]
    assert len(shifts) == 3 + 4 + 6 + 3


def test_what_tsm_learns_faster(video_classifier):
    cfg, model = video_classifier
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    rate = options(model, optimizer, 'lr')
    decay = options(model, optimizer, 'weight_decay')
    assert rate['cls_head.fc_cls.weight'] == pytest.approx(5 * 0.02)
    assert decay['cls_head.fc_cls.weight'] == 1e-4
    assert rate['cls_head.fc_cls.bias'] == pytest.approx(10 * 0.02)
    assert decay['cls_head.fc_cls.bias'] == 0
    for name in rate:
        if name.startswith('backbone.') and name.endswith('conv.weight'):
            assert (rate[name], decay[name]) == (0.02, 1e-4), name


@pytest.mark.parametrize('depth', [50, 101])
def test_baselines_of_tsm(depth):
    """mmaction2's ResNets in the same recipe."""
    name = 'tsm_ctx-resnet50_8xb16-dense-1x1x16-100e_kinetics400-rgb'
    cfg = load(name.replace('ctx-resnet50', f'r{depth}'))
    backbone = cfg.model.pop('backbone')
    assert (backbone.type, backbone.depth) == ('ResNetTSM', depth)
    assert backbone.pretrained == f'torchvision://resnet{depth}'
    counterpart = load(name)
    counterpart.model.pop('backbone')
    for key in ('model', 'optim_wrapper', 'param_scheduler', 'train_pipeline'):
        assert cfg[key] == counterpart[key]


def test_baseline_of_the_ablations():
    """Rows a1 and c1: ResNet-50 in the recipe of the others."""
    cfg, counterpart = load('resnet50_8xb32-200e_in1k'), load(RESNET50)
    assert cfg.model.backbone.type == 'ResNet'
    assert cfg.model.head.loss.label_smooth_val == 0.1
    for key in ('optim_wrapper', 'param_scheduler', 'train_dataloader'):
        assert cfg[key] == counterpart[key]


def test_digits_have_candidates_of_their_own():
    """A detector's backbone is the classifier's, but for what it scores."""
    classifier, detector = (
        recipes.load(f'digit_scenes/{name}_digit-scenes').model
        for name in (
            'ctx-resnet14',
            'faster-rcnn_ctx-resnet14_fpn',
        )
    )
    assert classifier.backbone.num_classes == 10
    assert classifier.backbone.class_counts == (5, 3, 2)
    detector.backbone.pop('init_cfg')
    assert classifier.backbone == dict(
        detector.backbone, out_indices=(3,), with_class_scores=True
    )
