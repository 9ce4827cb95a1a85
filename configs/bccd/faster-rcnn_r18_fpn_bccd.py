_base_ = [
    '../_base_/models/bccd_faster-rcnn_fpn.py',
    '../_base_/datasets/bccd_detection.py',
    '../_base_/schedules/bccd_detection.py',
    '../_base_/runtime/digit_scenes_mmdet.py',
]

model = dict(
    backbone=dict(type='ResNet', depth=18, norm_eval=False),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
