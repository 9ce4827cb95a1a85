# Mask R-CNN on CoTNet-50 (Table 8 of the paper).
_base_ = [
    '../_base_/models/mask-rcnn_fpn_syncbn-4conv1fc.py',
    '../_base_/common/ms-90k_coco-instance.py',
]

model = dict(
    backbone=dict(
        type='CoTNet',
        depth=50,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='mmctx://cotnet50',
            prefix='backbone.',
        ),
    )
)
