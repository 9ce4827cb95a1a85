# Mask R-CNN on CoaT-Lite Mini (Table 3 of the paper).
_base_ = '../_base_/common/mask-rcnn_fpn_amp-ms-crop-1x_coco.py'

model = dict(
    backbone=dict(
        type='CoaT',
        arch='lite_mini',
        init_cfg=dict(
            type='Pretrained',
            checkpoint='mmctx://coat_lite_mini',
            prefix='backbone.',
        ),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
