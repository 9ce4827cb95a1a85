# Cascade Mask R-CNN on CoTNeXt-101 (Table 8 of the paper).
_base_ = [
    '../_base_/models/cascade-mask-rcnn_fpn_syncbn-4conv1fc.py',
    '../_base_/common/ms-range-90k_coco-instance.py',
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
