# Mask R-CNN on CoaT Tiny (Table 7 of the paper).
_base_ = '../_base_/common/mask-rcnn_fpn_amp-ms-crop-1x_coco.py'

model = dict(
    backbone=dict(
        type='CoaT',
        arch='tiny',
        init_cfg=dict(
            type='Pretrained',
            checkpoint='mmctx://coat_tiny',
            prefix='backbone.',
        ),
    ),
    neck=dict(in_channels=[152, 152, 152, 152]),
)
