# Cascade R-CNN on CoTNet-101 (Table 7 of the paper).
_base_ = [
    '../_base_/models/cascade-rcnn_fpn_syncbn-4conv1fc.py',
    '../_base_/common/ms-range-90k_coco.py',
]

model = dict(
    backbone=dict(
        type='CoTNet',
        depth=101,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='mmctx://cotnet101',
            prefix='backbone.',
        ),
    )
)
