# Cascade Mask R-CNN on CoaT Small (Table 4 of the paper).
_base_ = '../_base_/common/cascade-mask-rcnn_fpn_4conv1fc-giou_amp-ms-crop-3x_coco.py'

model = dict(
    backbone=dict(
        type='CoaT',
        arch='small',
        drop_path_rate=0.2,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='mmctx://coat_small',
            prefix='backbone.',
        ),
    ),
    neck=dict(in_channels=[152, 320, 320, 320]),
)
