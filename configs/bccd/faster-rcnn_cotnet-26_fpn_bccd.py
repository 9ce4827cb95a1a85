_base_ = [
    '../_base_/models/bccd_faster-rcnn_fpn.py',
    '../_base_/datasets/bccd_detection.py',
    '../_base_/schedules/bccd_detection.py',
    '../_base_/runtime/digit_scenes_mmdet.py',
]

model = dict(
    backbone=dict(type='CoTNet', depth=26, base_channels=32, stem_channels=32),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
