_base_ = [
    '../_base_/models/digit_scenes_pspnet.py',
    '../_base_/models/contnet/slim_backbone.py',
    '../_base_/datasets/digit_scenes_segmentation.py',
    '../_base_/schedules/digit_scenes_segmentation.py',
    '../_base_/runtime/digit_scenes_mmseg.py',
]

model = dict(backbone=_base_.backbone)
