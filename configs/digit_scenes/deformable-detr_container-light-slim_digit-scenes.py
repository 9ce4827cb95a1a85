_base_ = [
    '../_base_/models/container/digit_scenes_deformable-detr.py',
    '../_base_/datasets/digit_scenes_detection.py',
    '../_base_/schedules/digit_scenes_detr.py',
    '../_base_/runtime/digit_scenes_mmdet.py',
]
