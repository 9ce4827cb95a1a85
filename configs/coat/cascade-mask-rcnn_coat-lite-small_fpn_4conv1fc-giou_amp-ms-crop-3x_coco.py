# Cascade Mask R-CNN on CoaT-Lite Small (Table 4 of the paper).
_base_ = '../_base_/common/cascade-mask-rcnn_fpn_4conv1fc-giou_amp-ms-crop-3x_coco.py'

model = dict(
    backbone=dict(
        type='CoaT',
        arch='lite_small',
        init_cfg=dict(
            type='Pretrained',
            checkpoint='mmctx://coat_lite_small',
            prefix='backbone.',
        ),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
