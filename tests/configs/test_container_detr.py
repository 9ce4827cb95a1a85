"""The recipes of Container's DETR family (Table 5 of the paper)."""

import functools

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS

from tests.helpers import recipes

DETR = 'detr_container-light_8xb2-50e_coco'
DEFORMABLE = 'deformable-detr-single-scale_container-light_16xb2-50e_coco'
SMCA = 'smca-detr-single-scale_container-light_8xb2-50e_coco'
NAMES = (DETR, DEFORMABLE, SMCA)
RESNETS = [name.replace('container-light', 'r50') for name in NAMES]
FOCAL = dict(
    type='FocalLoss',
    use_sigmoid=True,
    alpha=0.25,
    gamma=2.0,
    loss_weight=2.0,
)


load = functools.partial(recipes.load, folder='container')


@pytest.fixture(scope='module', params=NAMES)
def detector(request):
    """Name, config, and model without memory."""
    cfg = load(request.param)
    with torch.device('meta'):
        return request.param, cfg, MODELS.build(cfg.model)


def weights(costs):
    return [(cost.type, cost.weight) for cost in costs]


@pytest.mark.parametrize('name', NAMES)
def test_schedule(name):
    cfg = load(name)
    (drop,) = cfg.param_scheduler
    assert cfg.train_cfg.max_epochs == drop.end == 50
    assert (drop.type, drop.milestones, drop.gamma) == (
        'MultiStepLR',
        [40],
        0.1,
    )
    assert cfg.optim_wrapper.clip_grad == dict(max_norm=0.1, norm_type=2)
    assert cfg.train_dataloader.batch_size == 2
    batch = 32 if name == DEFORMABLE else 16
    assert cfg.auto_scale_lr == dict(enable=False, base_batch_size=batch)
    assert 'ema' not in str(cfg.get('custom_hooks', '')).lower()
    assert cfg.optim_wrapper.type == 'OptimWrapper'


def test_rates(detector):
    name, cfg, model = detector
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    assert type(optimizer).__name__ == 'AdamW'
    groups = {
        id(p): group
        for group in optimizer.param_groups
        for p in group['params']
    }
    assert len(groups) == len(list(model.parameters()))
    base = 2e-4 if name == DEFORMABLE else 1e-4
    slow = ('backbone', 'reference_points', 'sampling_offsets')
    slowed = set()
    for label, p in model.named_parameters():
        part = next((part for part in slow if part in label), None)
        slowed.add(part)
        rate = base * 0.1 if part else base
        assert groups[id(p)]['lr'] == pytest.approx(rate), label
        assert groups[id(p)]['weight_decay'] == 1e-4, label
    assert slowed == {None, *(slow if name == DEFORMABLE else slow[:1])}


def test_transformer(detector):
    name, cfg, model = detector
    model_cfg = cfg.model
    assert model.num_queries == (100 if name == DETR else 300)
    assert model.embed_dims == 256
    feedforward = 1024 if name == DEFORMABLE else 2048
    for coder in (model.encoder, model.decoder):
        assert coder.num_layers == len(coder.layers) == 6
        for layer in coder.layers:
            assert layer.ffn.layers[0][0].out_features == feedforward
            assert layer.ffn.layers[1].out_features == 256
            attention = layer.self_attn
            assert attention.num_heads == 8
            if name == DEFORMABLE:
                continue
            assert attention.attn.dropout == 0.1
            assert attention.dropout_layer.p == 0.1
    assert model.decoder.return_intermediate  # auxiliary losses
    assert model_cfg.bbox_head.num_classes == 80


def test_one_map_of_stride_32(detector):
    name, _, model = detector
    assert model.backbone.out_strides == (32,)
    assert model.backbone.out_channels == (512,)
    (conv,) = model.neck.convs
    assert conv.conv.kernel_size == (1, 1)
    assert model.neck.extra_convs is None
    if name == DEFORMABLE:
        assert model.num_feature_levels == len(model.level_embed) == 1
        attentions = [layer.self_attn for layer in model.encoder.layers] + [
            layer.cross_attn for layer in model.decoder.layers
        ]
        for attention in attentions:
            assert (attention.num_levels, attention.num_points) == (1, 4)
        assert not model.with_box_refine
        assert not model.as_two_stage
    if name == SMCA:
        assert model.stride == 32


def test_losses_and_matching(detector):
    name, cfg, model = detector
    head, costs = cfg.model.bbox_head, cfg.model.train_cfg.assigner.match_costs
    assert head.loss_bbox == dict(type='L1Loss', loss_weight=5.0)
    assert head.loss_iou == dict(type='GIoULoss', loss_weight=2.0)
    boxes = [('BBoxL1Cost', 5.0), ('IoUCost', 2.0)]
    if name == DETR:
        assert head.loss_cls.type == 'CrossEntropyLoss'
        assert model.bbox_head.bg_cls_weight == 0.1
        assert weights(costs) == [('ClassificationCost', 1.0), *boxes]
    else:
        assert head.loss_cls == FOCAL
        assert weights(costs) == [('FocalLossCost', 2.0), *boxes]
        assert head.sync_cls_avg_factor


def test_smca_starts_from_a_class_prior_and_gaussians_of_scale_one():
    cfg = load(SMCA)
    cfg.model.backbone.update(init_cfg=None)
    for coder in (cfg.model.encoder, cfg.model.decoder):
        coder.num_layers = 1
    model = MODELS.build(cfg.model)
    model.init_weights()
    bias = model.bbox_head.fc_cls.bias
    torch.testing.assert_close(bias.sigmoid(), torch.full((80,), 0.01))
    (prior,) = model.decoder.priors
    assert prior.smoothness == 8
    assert prior.scales.out_features == prior.offsets.out_features == 16
    assert (prior.scales.weight == 0).all()
    assert (prior.scales.bias == 1).all()


@pytest.mark.parametrize('name', NAMES)
def test_backbone_is_trained_whole_from_the_released_weights(name):
    backbone = load(name).model.backbone
    assert backbone.init_cfg.checkpoint == 'mmctx://container_light'
    assert backbone.init_cfg.prefix == 'backbone.'
    assert backbone.norm_cfg == dict(type='SyncBN')
    assert 'frozen_stages' not in backbone
    assert 'norm_eval' not in backbone


@pytest.mark.parametrize('name', RESNETS)
def test_resnets_train_as_container_does(name):
    """From torchvision's weights, with the norms and first stage frozen."""
    cfg, counterpart = load(name), load(name.replace('r50', 'container-light'))
    backbone = cfg.model.pop('backbone')
    counterpart.model.pop('backbone')
    assert (backbone.type, backbone.depth) == ('ResNet', 50)
    assert tuple(backbone.out_indices) == (3,)
    assert (backbone.frozen_stages, backbone.norm_eval) == (1, True)
    assert not backbone.norm_cfg.requires_grad
    assert cfg.model.neck.pop('in_channels') == [2048]
    counterpart.model.neck.pop('in_channels')
    for key in (
        'model',
        'optim_wrapper',
        'param_scheduler',
        'train_cfg',
        'train_dataloader',
    ):
        assert cfg[key] == counterpart[key]


@pytest.mark.parametrize('name', NAMES)
def test_images(name):
    """Flip, then one of 11 sizes; for half of the images after a crop."""
    cfg = load(name)
    steps = {step.type: step for step in cfg.train_pipeline}
    assert steps['RandomFlip'].prob == 0.5
    plain, cropped = steps['RandomChoice'].transforms
    short_sides = list(range(480, 801, 32))
    for resize in (plain[0], cropped[2]):
        assert resize.type == 'RandomChoiceResize'
        assert resize.keep_ratio
        assert [tuple(s) for s in resize.scales] == [
            (side, 1333) for side in short_sides
        ]
    assert [min(scale) for scale in cropped[0].scales] == [400, 500, 600]
    assert cropped[1].type == 'RandomCrop'
    assert cropped[1].crop_type == 'absolute_range'
    assert tuple(cropped[1].crop_size) == (384, 600)
    (resize,) = [s for s in cfg.test_pipeline if s.type == 'Resize']
    assert tuple(resize.scale) == (1333, 800)
