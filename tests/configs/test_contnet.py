"""Training and evaluation of ConTNet that no stock config has."""

import functools

import numpy as np
import pytest
import torch
from mmengine.dataset import Compose
from mmengine.hub import get_config
from mmengine.registry import DATASETS, MODELS

from mmctx.models.layers import PatchwiseTransformerEncoder
from tests.helpers import recipes
from tests.helpers.recipes import build_on_meta, decays, optimizer_of, options

PSPNET = 'pspnet_cont-m_8xb2-adamw-200e_cityscapes-672x672'

load = functools.partial(recipes.load, folder='contnet')


@pytest.mark.parametrize(
    'name, rate, ste_rate',
    [
        ('cont-s_8xb64-sgd-200e_in1k', 0.2, 0.005),
        ('cont-m_8xb64-sgd-200e_in1k', 0.2, 0.005),
        ('cont-b_8xb64-sgd-200e_in1k', 0.2, 0.005),
        ('cont-m_8xb64-sgd-lr0.2-ste0.01-200e_in1k', 0.2, 0.01),
        ('cont-m_8xb64-sgd-lr0.1-ste0.005-200e_in1k', 0.1, 0.005),
        ('cont-m_8xb64-sgd-lr0.1-ste0.001-200e_in1k', 0.1, 0.001),
    ],
)
def test_encoders_have_a_rate_of_their_own(name, rate, ste_rate):
    model, optimizer = optimizer_of(load(name))
    rates = options(model, optimizer, 'lr')
    weight_decays = decays(model, optimizer)
    encoders = {
        id(p)
        for stage in model.backbone.stages
        for block in stage
        for p in block.ste.parameters()
    }
    assert len(rates) > len(encoders) > 0
    for label, p in model.named_parameters():
        expected = ste_rate if id(p) in encoders else rate
        assert rates[label] == pytest.approx(expected), label
        assert weight_decays[label] == (5e-5 if p.ndim > 1 else 0), label


def test_encoders_of_detectors_can_have_a_rate_of_their_own():
    """The option that the README names."""
    cfg = load('mask-rcnn_cont-m_fpn_1x_coco')
    cfg.optim_wrapper.paramwise_cfg = dict(
        custom_keys={'.ste.': dict(lr_mult=0.025)}
    )
    for name, rate in options(*optimizer_of(cfg), 'lr').items():
        expected = 0.0005 if '.ste.' in name else 0.02
        assert rate == pytest.approx(expected), name


def test_strong_recipe_has_one_rate():
    _, optimizer = optimizer_of(load('cont-m_8xb64-adamw-strong-200e_in1k'))
    assert {group['lr'] for group in optimizer.param_groups} == {5e-4}
    assert {
        (p.ndim > 1, group['weight_decay'])
        for group in optimizer.param_groups
        for p in group['params']
    } == {(True, 0.05), (False, 0)}


@pytest.mark.parametrize('depth', [18, 50, 101])
@pytest.mark.parametrize('strong', ['', '-strong'])
def test_resnets_train_with_sgd_at_one_rate(depth, strong):
    """In both recipes, on the data of ConTNet."""
    cfg = load(f'resnet{depth}_8xb64-sgd{strong}-200e_in1k')
    counterpart = load(
        f'cont-m_8xb64-{"adamw-strong" if strong else "sgd"}-200e_in1k'
    )
    assert cfg.train_dataloader == counterpart.train_dataloader
    assert cfg.model.get('train_cfg') == counterpart.model.get('train_cfg')
    assert cfg.model.head.loss == counterpart.model.head.loss
    # mmpretrain's ResNet does not build on meta.
    model, optimizer = optimizer_of(cfg, lambda cfg: MODELS.build(cfg.model))
    assert model.backbone.depth == depth
    assert type(optimizer) is torch.optim.SGD
    assert set(options(model, optimizer, 'lr').values()) == {0.2}
    assert set(decays(model, optimizer).values()) == {5e-5, 0}


@pytest.mark.parametrize(
    'name, folder',
    [
        ('retinanet_r50_fpn_1x_coco', 'retinanet'),
        ('fcos_r50-caffe_fpn_gn-head_1x_coco', 'fcos'),
        ('faster-rcnn_r50_fpn_1x_coco', 'faster_rcnn'),
        ('mask-rcnn_r50_fpn_1x_coco', 'mask_rcnn'),
    ],
)
def test_detectors_on_resnet50_are_those_of_mmdet(name, folder):
    cfg, stock = load(name), get_config(f'mmdet::{folder}/{name}.py')
    for key in (
        'model',
        'train_dataloader',
        'test_dataloader',
        'optim_wrapper',
        'param_scheduler',
        'train_cfg',
    ):
        assert plain(cfg[key]) == plain(stock[key]), key


@pytest.mark.parametrize('probs, cuts', [(None, True), ([1, 0], False)])
def test_cutmix_has_a_switch(probs, cuts):
    cfg = load('cont-m_8xb64-adamw-strong-200e_in1k')
    cfg.merge_from_dict({'model.train_cfg.probs': probs})
    augment = build_on_meta(cfg).data_preprocessor.batch_augments
    images = torch.stack([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)])
    batches = [augment(images.clone(), torch.eye(2))[0] for _ in range(50)]
    # Mixup leaves an image of one colour, CutMix one of two.
    assert any(len(batch[0].unique()) > 1 for batch in batches) == cuts


@pytest.mark.parametrize('split', ['train', 'test'])
@pytest.mark.parametrize('kind', ['retinanet', 'faster-rcnn', 'mask-rcnn'])
def test_detectors_see_multiples_of_the_patches(kind, split):
    cfg = load(f'{kind}_cont-m_fpn_1x_coco')
    (resize,) = (
        step
        for step in cfg[f'{split}_dataloader'].dataset.pipeline
        if step.type == 'Resize'
    )
    image = Compose([resize])(dict(img=np.zeros((426, 640, 3), np.uint8)))
    assert image['img'].shape == (784, 1178, 3)
    assert cfg.model.data_preprocessor.pad_size_divisor == 14 * 8


def test_improved_fcos_head_is_that_of_mmdet():
    cfg = load(
        'fcos_cont-m_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco'
    )
    stock = get_config(
        'mmdet::fcos/fcos_r50-caffe_fpn_gn-head-center-normbbox-centeronreg-'
        'giou_1x_coco.py'
    )
    for key in ('bbox_head', 'test_cfg'):
        stock.model[key].pop('dcn_on_last_conv', None)  # at its default
        assert plain(cfg.model[key]) == plain(stock.model[key])
    assert plain(cfg.optim_wrapper) == plain(stock.optim_wrapper)


def plain(node):
    """Nested dicts and lists without what MMEngine notes about scopes."""
    if isinstance(node, dict):
        return {k: plain(v) for k, v in node.items() if k != '_scope_'}
    return [plain(v) for v in node] if isinstance(node, list) else node


def test_pspnet_warms_up_and_clips_as_mmseg_does_with_adamw():
    cfg = load(PSPNET)
    assert cfg.optim_wrapper.clip_grad == dict(max_norm=1, norm_type=2)
    warm_up, decay = cfg.param_scheduler
    assert (warm_up.type, warm_up.start_factor) == ('LinearLR', 1e-3)
    assert (decay.type, decay.power) == ('PolyLR', 0.9)
    assert (warm_up.end, decay.begin, decay.end) == (1000, 1000, 37000)
    _, optimizer = optimizer_of(cfg)
    (group,) = optimizer.param_groups
    assert (group['lr'], group['weight_decay']) == (5e-4, 0.05)


def test_pspnet_is_dilated_and_patches_fit():
    backbone = build_on_meta(load(PSPNET)).backbone
    maps = backbone(torch.zeros(1, 3, 672, 672, device='meta'))
    assert backbone.out_strides == (4, 8, 8, 8)
    assert [m.shape[2] for m in maps] == [168, 84, 84, 84]
    sizes = {
        m.patch_size
        for m in backbone.modules()
        if isinstance(m, PatchwiseTransformerEncoder)
    }
    assert not any(84 % size for size in sizes)


def test_pspnet_on_resnet50_trains_as_pspnet_itself():
    """At stride 8, with SGD, ten times as fast in the heads."""
    cfg = load('pspnet_r50-d8_8xb2-sgd-200e_cityscapes-713x713')
    model, optimizer = optimizer_of(cfg)
    *_, last = model.backbone(torch.zeros(1, 3, 64, 64, device='meta'))
    assert last.shape == (1, 2048, 8, 8)
    for name, rate in options(model, optimizer, 'lr').items():
        is_head = not name.startswith('backbone.')
        assert rate == pytest.approx(0.1 if is_head else 0.01), name
    assert cfg.optim_wrapper.get('clip_grad') is None
    (decay,) = cfg.param_scheduler
    assert (decay.type, decay.get('begin', 0)) == ('PolyLR', 0)
    (crop,) = (s for s in cfg.train_pipeline if s.type == 'RandomCrop')
    assert crop.crop_size == cfg.model.test_cfg.crop_size == (713, 713)


def test_pspnet_trains_on_crops(data_roots):
    cfg = load(PSPNET)
    dataset = cfg.train_dataloader.dataset
    dataset.data_root = data_roots['data/cityscapes/']
    dataset = DATASETS.build(dataset)
    preprocess = MODELS.build(cfg.model.data_preprocessor)
    item = dataset[0]
    batch = preprocess(
        dict(inputs=[item['inputs']], data_samples=[item['data_samples']]),
        training=True,
    )
    (sample,) = batch['data_samples']
    assert batch['inputs'].shape == (1, 3, 672, 672)
    assert sample.gt_sem_seg.shape == (672, 672)
    assert set(sample.gt_sem_seg.data.unique().tolist()) <= {0, 8, 13, 255}


def test_pspnet_slides_a_window(data_roots):
    cfg = load(PSPNET)
    dataset = cfg.test_dataloader.dataset
    dataset.data_root = data_roots['data/cityscapes/']
    image = DATASETS.build(dataset)[0]['inputs'].float()
    assert image.shape == (3, 1024, 2048)
    windows = []

    def encode_decode(inputs, metas):
        windows.append(inputs.shape[2:])
        return inputs.new_zeros(len(inputs), 19, *inputs.shape[2:])

    model = build_on_meta(cfg)
    model.encode_decode = encode_decode
    model.slide_inference(image[None], [{}])
    # tops 0 and 352 (of 1024 - 672), lefts 0, 448, 896, 1344, 1376
    assert windows == [(672, 672)] * 2 * 5
