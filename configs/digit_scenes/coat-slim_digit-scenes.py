# CoaT with parallel blocks, in which the scales exchange what they see; no
# mixing of pictures, which are few and small.
_base_ = [
    '../_base_/models/coat/classifier.py',
    '../_base_/datasets/digit_scenes_classification.py',
    '../_base_/schedules/digit_scenes_classification.py',
    '../_base_/runtime/digit_scenes_mmpretrain.py',
]

model = dict(
    backbone=dict(
        arch=dict(
            embed_dims=(64, 96, 96, 96),
            serial_depths=(1, 1, 1, 1),
            mlp_ratios=(4, 4, 4, 4),
            parallel_depth=2,
        ),
    ),
    head=dict(num_classes=10, in_channels=96, num_tokens=3, topk=(1,)),
    train_cfg=None,
)

optim_wrapper = dict(optimizer=dict(lr=5e-4))  # attention bears no more
