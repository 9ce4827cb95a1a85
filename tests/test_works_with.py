"""Stock detectors and segmentors with a backbone of ours, a step each.

The families take turns: that each of them fits any head is for the contract of
the backbones to say.
"""

from pathlib import Path

import mmdet
import mmseg
import pytest
import torch
from mmdet.registry import MODELS as DETECTORS
from mmdet.testing import demo_mm_inputs
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import PixelData
from mmseg.registry import MODELS as SEGMENTORS
from mmseg.structures import SegDataSample

from tests.helpers.backbones import TINY

ALL, LAST_THREE, LAST = (0, 1, 2, 3), (1, 2, 3), (3,)
#: Family, out indices, where the config of mmdet names the input channels.
STOCK = {
    'atss/atss_r50_fpn_1x_coco': ('CoTNet', ALL, 'neck'),
    'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco': ('ConTNet', ALL, 'neck'),
    'cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco': (
        'Container', ALL, 'neck',
    ),
    'vfnet/vfnet_r50_fpn_1x_coco': ('CoaT', ALL, 'neck'),
    'solov2/solov2_r50_fpn_1x_coco': ('SECoTNetD', ALL, 'neck'),
    'detr/detr_r50_8xb2-150e_coco': ('CoaT', LAST, 'neck'),
    'mask2former/mask2former_r50_8xb2-lsj-50e_coco': (
        'CoTNet', ALL, 'panoptic_head',
    ),
    'rtmdet/rtmdet_tiny_8xb32-300e_coco': ('Container', LAST_THREE, 'neck'),
    'yolox/yolox_tiny_8xb8-300e_coco': ('ConTNet', LAST_THREE, 'neck'),
}  # fmt: skip


def stock_config(package, name):
    """Not by mmengine.hub, which pip-installs the first of two mmseg."""
    folder = Path(package.__file__).parent / '.mim/configs'
    return Config.fromfile(folder / f'{name}.py')


def backbone(family, indices):
    """Config and output channels."""
    cfg = dict(type=family, out_indices=indices, **TINY[family])
    return cfg, list(MODELS.build(cfg).out_channels)


def step(model, data):
    """Loss, gradients and prediction."""
    losses = model(**data, mode='loss')
    loss, _ = model.parse_losses(losses)
    loss.backward()
    assert torch.isfinite(loss)
    for name, parameter in model.backbone.named_parameters():
        assert parameter.grad is not None, name
    model.eval()
    with torch.no_grad():
        results = model(**data, mode='predict')
    assert len(results) == 2
    return results


@pytest.mark.parametrize('name', STOCK)
def test_detector(name):
    torch.manual_seed(0)
    cfg = stock_config(mmdet, name)
    family, indices, part = STOCK[name]
    cfg.model.backbone, channels = backbone(family, indices)
    cfg.model[part].in_channels = channels
    # Mask2Former's pads to 1024 x 1024, which takes 11 GB.
    cfg.model.data_preprocessor.pop('batch_augments', None)
    with DefaultScope.overwrite_default_scope('mmdet'):
        detector = DETECTORS.build(cfg.model).train()
        inputs = demo_mm_inputs(
            2,
            [(3, 128, 96)] * 2,
            num_classes=3,
            with_mask='mask' in name or 'solo' in name,
        )
        MessageHub.get_current_instance().update_info('iter', 0)
        data = detector.data_preprocessor(inputs, training=True)
        results = step(detector, data)
    assert 'pred_instances' in results[0]


def test_segmentor():
    torch.manual_seed(0)
    name = 'segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512'
    cfg = stock_config(mmseg, name)
    cfg.model.backbone, channels = backbone('CoTNeXt', ALL)
    cfg.model.decode_head.in_channels = channels
    cfg.model.data_preprocessor.size = (64, 96)
    labels = torch.randint(150, (1, 64, 96))
    samples = [
        SegDataSample(
            gt_sem_seg=PixelData(data=labels),
            metainfo=dict(ori_shape=(64, 96), img_shape=(64, 96)),
        )
        for _ in range(2)
    ]
    with DefaultScope.overwrite_default_scope('mmseg'):
        segmentor = revert_sync_batchnorm(SEGMENTORS.build(cfg.model)).train()
        inputs = [torch.randint(256, (3, 64, 96)) for _ in range(2)]
        data = segmentor.data_preprocessor(
            dict(inputs=inputs, data_samples=samples), training=True
        )
        results = step(segmentor, data)
    assert results[0].pred_sem_seg.shape == (64, 96)
