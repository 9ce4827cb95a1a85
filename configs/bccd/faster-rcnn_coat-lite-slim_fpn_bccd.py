_base_ = [
    '../_base_/models/bccd_faster-rcnn_fpn.py',
    '../_base_/models/coat/slim_backbone.py',
    '../_base_/datasets/bccd_detection.py',
    '../_base_/schedules/bccd_detection.py',
    '../_base_/runtime/digit_scenes_mmdet.py',
]

model = dict(
    backbone=_base_.backbone, neck=dict(in_channels=[64, 128, 192, 256])
)
