_base_ = [
    '../_base_/models/digit_scenes_deformable-detr.py',
    '../_base_/datasets/digit_scenes_detection.py',
    '../_base_/schedules/digit_scenes_detr.py',
    '../_base_/runtime/digit_scenes_mmdet.py',
]

# Attention is in the last stage that is built, that of stride 16.
model = dict(
    backbone=dict(
        type='Container',
        arch=dict(
            embed_dims=(32, 64, 128, 192),
            depths=(2, 2, 2, 2),
            mlp_ratios=(4, 4, 4, 4),
            aggregation=dict(
                num_heads=(1, 2, 4, 6),
                dynamic=('none', 'none', 'attention', 'attention'),
            ),
        ),
    ),
    neck=dict(in_channels=[128]),
)
