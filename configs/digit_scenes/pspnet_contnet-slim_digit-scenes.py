_base_ = [
    '../_base_/models/digit_scenes_pspnet.py',
    '../_base_/datasets/digit_scenes_segmentation.py',
    '../_base_/schedules/digit_scenes_segmentation.py',
    '../_base_/runtime/digit_scenes_mmseg.py',
]

model = dict(
    backbone=dict(
        type='ConTNet',
        arch=dict(
            stem_channels=32,
            depths=(2, 2, 2, 2),
            feedforward_channels=(64, 128, 256, 512),
        ),
        patch_sizes=(4, 8),
        last_patch_size=4,
    ),
)
