"""Files of detectors, with boxes, scores, labels, masks and NMS."""

from pathlib import Path

import mmdet
import pytest
import torch
from mmcv.ops import batched_nms
from mmdet.registry import MODELS as DETECTORS
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch.nn.modules.batchnorm import _BatchNorm

import mmctx
from mmctx.engine import export
from mmctx.engine.export.check import images, match
from mmctx.engine.export.detection import NONE, _detections, suppress
from mmctx.registry import MODELS
from tests.helpers.backbones import TINY

ALL, LAST_THREE, LAST = (0, 1, 2, 3), (1, 2, 3), (3,)
#: Family, out indices, where the config of mmdet names the input channels.
STOCK = {
    'atss/atss_r50_fpn_1x_coco': ('CoTNet', ALL),
    'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco': ('ConTNet', ALL),
    'retinanet/retinanet_r50_fpn_1x_coco': ('CoaT', ALL),
    'rtmdet/rtmdet_tiny_8xb32-300e_coco': ('Container', LAST_THREE),
    'cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco': ('Container', ALL),
    'detr/detr_r50_8xb2-150e_coco': ('CoaT', LAST),
}
OURS = (
    'mask-rcnn_coat-lite-slim_fpn_digit-scenes',
    'faster-rcnn_ctx-resnet14_fpn_digit-scenes',
    'deformable-detr_container-light-slim_digit-scenes',
    'smca-detr_container-light-slim_digit-scenes',
)


def build(cfg):
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = DETECTORS.build(cfg.model)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    if hasattr(model, 'level_embed'):
        torch.nn.init.normal_(model.level_embed)
    return model.eval()


def shrink(cfg):
    """Heads of fewer channels and classes."""
    for key, value in cfg.items():
        for part in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(part, dict) and key != 'backbone':
                shrink(part)
        if 'channels' in key and value in (256, 1024):
            cfg[key] = 64
        elif key == 'num_classes':
            cfg[key] = 5


def stock(name):
    """A stock detector with a tiny backbone, and few candidates."""
    folder = Path(mmdet.__file__).parent / '.mim/configs'
    cfg = Config.fromfile(folder / f'{name}.py')
    family, indices = STOCK[name]
    backbone = dict(type=family, out_indices=indices, **TINY[family])
    cfg.model.backbone = backbone
    cfg.model.neck.in_channels = list(MODELS.build(backbone).out_channels)
    if 'encoder' not in cfg.model:
        shrink(cfg.model)
    test_cfg = cfg.model.test_cfg
    if 'rtmdet' in name:
        # Its neck doubles feature maps.
        cfg.model.data_preprocessor.pad_size_divisor = 32
    if 'rcnn' in test_cfg:
        test_cfg.rcnn.update(score_thr=0.1, max_per_img=30)
        test_cfg.rpn.update(max_per_img=60)
    elif test_cfg:
        test_cfg.update(score_thr=0.0, nms_pre=50, max_per_img=30)
    return cfg


def check(model, tmp_path, boxes=10):
    network = export.build(model)
    path = tmp_path / 'model.pt'
    export.save(network, path, 'torchscript', (96, 128), True, {})
    comparisons = export.check_file(model, network, path, (96, 128), True)
    assert min(c.boxes for c in comparisons) >= boxes
    first, second = (
        export.read(path)[0](images(network, (1, 96, 128), seed))
        for seed in (0, 1)
    )
    assert not torch.allclose(first[1], second[1], atol=1e-6)
    return network


@pytest.mark.parametrize('name', STOCK)
def test_stock_detectors(name, tmp_path):
    check(build(stock(name)), tmp_path)


@pytest.mark.parametrize('name', OURS)
def test_our_detectors(name, tmp_path):
    cfg = mmctx.get_config(name)
    if 'ctx-resnet' in name:
        cfg.model.backbone.init_cfg = None
    network = check(build(cfg), tmp_path)
    has_masks = 'mask' in name
    assert network.outputs[3:] == ('masks',) * has_masks


def test_half_precision(tmp_path):
    """Of a transformer; where NMS decides, random boxes are near ties."""
    cfg = mmctx.get_config(OURS[2])
    model, path = build(cfg), tmp_path / 'model.pt'
    network = export.build(model, half=True)
    export.save(network, path, 'torchscript', (96, 128), False, {})
    comparisons = export.check_file(model, network, path, (96, 128), False)
    assert 1e-6 < max(c.difference for c in comparisons) < 5e-2


def test_suppression_is_that_of_mmcv():
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(2, 300, 2, generator=generator) * 100
    boxes = torch.cat((corner, corner + 30), 2)
    scores = torch.rand(2, 300, generator=generator)
    labels = torch.randint(20, (2, 300), generator=generator)
    scores[:, ::7] = NONE
    nms = dict(type='nms', iou_threshold=0.5)
    kept = suppress(boxes, scores, labels, nms)
    for i in range(2):
        valid = scores[i] > NONE
        places = valid.nonzero().squeeze(1)
        _, keep = batched_nms(
            boxes[i, valid], scores[i, valid], labels[i, valid], dict(nms)
        )
        expected = torch.full_like(scores[i], NONE)
        expected[places[keep]] = scores[i][places[keep]]
        assert torch.equal(kept[i], expected)
        assert 50 < len(keep) < len(places)


def test_detections_are_padded():
    boxes = torch.arange(12.0).view(1, 3, 4)
    scores = torch.tensor([[0.2, NONE, 0.9]])
    labels = torch.tensor([[3, 4, 5]])
    boxes, scores, labels = _detections(boxes, scores, labels, 5)
    assert labels.tolist() == [[5, 3, -1, -1, -1]]
    assert scores.tolist() == [[pytest.approx(0.9), pytest.approx(0.2), 0, 0,
                                0]]  # fmt: skip
    assert boxes[0, :3].tolist() == [[8, 9, 10, 11], [0, 1, 2, 3], [0] * 4]


def found(boxes, scores, labels):
    return dict(
        boxes=torch.tensor(boxes),
        scores=torch.tensor(scores),
        labels=torch.tensor(labels),
    )


def test_boxes_are_matched_one_to_one():
    a = [0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 90.0, 90.0]
    expected = found([*a], [0.9, 0.8], [0, 1])
    swapped = found([*a[::-1]], [0.8, 0.9], [1, 0])
    assert match(swapped, expected, 100, False) == 0
    near = found([[0.0, 0.0, 10.0, 10.2], a[1]], [0.9, 0.8], [0, 1])
    assert match(near, expected, 100, False) == pytest.approx(2e-3, rel=1e-3)
    for other in (
        found([a[0], a[0]], [0.9, 0.8], [0, 1]),
        found([*a], [0.9, 0.8], [0, 0]),
        found([*a, [20.0, 20.0, 30.0, 30.0]], [0.9, 0.8, 0.85], [0, 1, 1]),
        found([a[1]], [0.8], [1]),
    ):
        assert match(other, expected, 100, False) == float('inf')
    lowest = found([a[0], [20.0, 20.0, 30.0, 30.0]], [0.9, 0.8], [0, 1])
    assert match(lowest, expected, 100, True) == 0


def refused(cfg, message):
    with pytest.raises(export.Refusal, match=message):
        export.build(build(cfg))


def test_other_kinds_are_refused_by_name():
    cfg = stock('cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco')
    cfg.model.test_cfg.rcnn.nms = dict(type='soft_nms', iou_threshold=0.5)
    refused(cfg, 'soft_nms')

    folder = Path(mmdet.__file__).parent / '.mim/configs'
    yolox = Config.fromfile(folder / 'yolox/yolox_tiny_8xb8-300e_coco.py')
    refused(yolox, 'YOLOXHead has its own')

    cfg = mmctx.get_config('detr_container-light-slim_digit-scenes')
    cfg.model.data_preprocessor.pad_size_divisor = 32
    refused(cfg, 'pad_size_divisor=1')
