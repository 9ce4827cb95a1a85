# Deformable DETR on CoaT-Lite Small (Table 5 of the paper).
_base_ = '../_base_/common/deformable-detr_8xb2-50e_coco.py'

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
    neck=dict(in_channels=[128, 320, 512]),
)
