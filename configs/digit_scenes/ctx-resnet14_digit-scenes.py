# Of 10 classes 5, 3 and 2 are candidates for stages 2, 3 and 4: half of them
# first, as on ImageNet, and in the end two, the fewest that leave a choice.
_base_ = [
    '../_base_/models/contextual_cnn/classifier.py',
    '../_base_/datasets/digit_scenes_classification.py',
    '../_base_/schedules/digit_scenes_classification.py',
    '../_base_/runtime/digit_scenes_mmpretrain.py',
]

model = dict(
    backbone=dict(
        type='ContextualResNet',
        depth=14,
        base_channels=16,
        stem_channels=16,
        num_classes=10,
        class_counts=(5, 3, 2),
        embedding_dims=64,
    ),
    head=dict(num_classes=10, topk=(1,), loss=dict(label_smooth=0.0)),
)
