# Cascade R-CNN on CoTNeXt-101 (Table 7 of the paper).
_base_ = [
    '../_base_/models/cascade-rcnn_fpn_syncbn-4conv1fc.py',
    '../_base_/common/ms-range-90k_coco.py',
]

model = dict(
    backbone=dict(
        type='CoTNeXt',
        depth=101,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='mmctx://cotnext101',
            prefix='backbone.',
        ),
    )
)
