# Mask R-CNN on SE-CoTNetD-101 (released results, not in the paper).
_base_ = [
    '../_base_/models/mask-rcnn_fpn_syncbn-4conv1fc.py',
    '../_base_/common/ms-90k_coco-instance.py',
]

model = dict(
    backbone=dict(
        type='SECoTNetD',
        depth=101,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='mmctx://se_cotnetd_101',
            prefix='backbone.',
        ),
    )
)
