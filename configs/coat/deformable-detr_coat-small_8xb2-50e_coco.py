# Deformable DETR on CoaT Small (Table 5 of the paper).
_base_ = '../_base_/common/deformable-detr_8xb2-50e_coco.py'

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
    neck=dict(in_channels=[320, 320, 320]),
)
