"""mmseg's decode heads train on dilated backbones of every family."""

import pytest
import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from tests.helpers.backbones import TINY, build_tiny, class_of

CLASSES = 3
PYRAMID = (0, 1, 2, 3)
HEADS = {
    'PSPHead': dict(pool_scales=(1, 2), in_index=3),
    'UPerHead': dict(pool_scales=(1, 2), in_index=PYRAMID),
    'DepthwiseSeparableASPPHead': dict(
        dilations=(1, 2), c1_channels=8, in_index=3
    ),
}
BACKBONES = [
    'CoTNet',
    'CoaT parallel',
    'ConTNet',
    'Container',
    'ContextualResNet',
]


def make_segmentor(name, head, output_stride):
    channels = build_tiny(name).out_channels
    common = dict(
        channels=8,
        num_classes=CLASSES,
        dropout_ratio=0,
        align_corners=False,
    )
    decode = dict(type=head, in_channels=channels[3], **HEADS[head], **common)
    if decode['in_index'] == PYRAMID:
        decode['in_channels'] = channels
    if 'c1_channels' in decode:
        decode['c1_in_channels'] = channels[0]
    backbone = dict(TINY[name], output_stride=output_stride)
    return dict(
        type='EncoderDecoder',
        data_preprocessor=dict(type='SegDataPreProcessor', size=(64, 64)),
        backbone=dict(type=class_of(name), **backbone),
        decode_head=decode,
        auxiliary_head=dict(
            type='FCNHead',
            in_index=2,
            in_channels=channels[2],
            num_convs=1,
            **common,
        ),
    )


@pytest.mark.parametrize('name', BACKBONES)
@pytest.mark.parametrize('head', HEADS)
@pytest.mark.parametrize('output_stride', [8, 16])
def test_trains_a_step_and_predicts(name, head, output_stride):
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(make_segmentor(name, head, output_stride))
        sizes = []
        model.decode_head.conv_seg.register_forward_hook(
            lambda conv, inputs, logits: sizes.append(logits.shape[2])
        )
        labels = torch.arange(64 * 64).view(1, 64, 64) % CLASSES
        data = dict(
            inputs=[torch.randint(256, (3, 64, 64)) for _ in range(2)],
            data_samples=[
                SegDataSample(gt_sem_seg=PixelData(data=labels))
                for _ in range(2)
            ],
        )
        before = [p.detach().clone() for p in model.backbone.parameters()]
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        losses = model.train_step(data, OptimWrapper(optimizer))
        scores = model.eval().encode_decode(
            torch.zeros(1, 3, 64, 64), [dict(img_shape=(64, 64))]
        )
    assert {'decode.loss_ce', 'aux.loss_ce'} <= set(losses)
    assert losses['loss'].isfinite()
    # Other heads read the last feature map, these all of them.
    side = 16 if head != 'PSPHead' else 64 // output_stride
    assert sizes == [side, side]
    assert scores.shape == (1, CLASSES, 64, 64)
    after = model.backbone.parameters()
    assert all(p.isfinite().all() for p in model.parameters())
    assert not torch.equal(before[0], next(iter(after)))
