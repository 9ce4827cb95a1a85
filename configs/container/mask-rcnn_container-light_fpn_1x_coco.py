# Mask R-CNN on Container-Light (Table 4 of the paper).
_base_ = [
    '../_base_/models/container/light_pretrained.py',
    '../_base_/models/mask-rcnn_r50_fpn.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/coco_1x.py',
    '../_base_/runtime/mmdet.py',
]

model = dict(
    backbone=dict(_delete_=True, **_base_.container_light),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
# As Swin trains it.
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-4, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0),
)
param_scheduler = [
    dict(_base_.param_scheduler[0], end=1000),
    _base_.param_scheduler[1],
]
