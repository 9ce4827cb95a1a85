# Mask R-CNN on CoTNeXt-50 (Table 8 of the paper).
_base_ = [
    '../_base_/models/mask-rcnn_fpn_syncbn-4conv1fc.py',
    '../_base_/common/ms-90k_coco-instance.py',
]

model = dict(
    backbone=dict(
        type='CoTNeXt',
        depth=50,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='mmctx://cotnext50',
            prefix='backbone.',
        ),
    )
)
