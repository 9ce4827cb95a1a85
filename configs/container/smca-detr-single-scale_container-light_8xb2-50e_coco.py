# SMCA-DETR on one scale on Container-Light (Table 5 of the paper).
_base_ = '../_base_/common/smca-detr-single-scale_8xb2-50e_coco.py'

model = dict(
    backbone=dict(
        type='Container',
        arch='light',
        drop_path_rate=0.1,
        norm_cfg=dict(type='SyncBN'),
        init_cfg=dict(
            type='Pretrained',
            checkpoint='mmctx://container_light',
            prefix='backbone.',
        ),
    ),
    neck=dict(in_channels=[512]),
)
