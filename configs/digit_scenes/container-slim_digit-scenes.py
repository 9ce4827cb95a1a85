# Container with both affinities in every block; no mixing of pictures, which
# are few and small.
_base_ = [
    '../_base_/models/container/classifier.py',
    '../_base_/datasets/digit_scenes_classification.py',
    '../_base_/schedules/digit_scenes_classification.py',
    '../_base_/runtime/digit_scenes_mmpretrain.py',
]

model = dict(
    backbone=dict(
        arch=dict(
            embed_dims=(32, 64, 96, 128),
            depths=(1, 2, 2, 1),
            mlp_ratios=(4, 4, 4, 4),
            aggregation=dict(num_heads=(1, 2, 3, 4)),
        ),
        drop_path_rate=0.0,
    ),
    neck=dict(in_channels=128),
    head=dict(num_classes=10, in_channels=128, topk=(1,)),
    train_cfg=None,
)
