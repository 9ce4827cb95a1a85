# From scratch, so the frozen score heads pick candidates by chance, though
# always the same for an image. The classes are those of the digits.
_base_ = [
    '../_base_/models/digit_scenes_faster-rcnn_fpn.py',
    '../_base_/datasets/digit_scenes_detection.py',
    '../_base_/schedules/digit_scenes_detection.py',
    '../_base_/runtime/digit_scenes_mmdet.py',
]

model = dict(
    backbone=dict(
        type='ContextualResNet',
        depth=26,
        base_channels=32,
        stem_channels=32,
        num_classes=10,
        class_counts=(5, 3, 2),
        embedding_dims=64,
    ),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
