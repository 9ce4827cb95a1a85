_base_ = [
    '../_base_/models/contextual_cnn/classifier.py',
    '../_base_/models/contextual_cnn/digit_scenes_backbone.py',
    '../_base_/datasets/digit_scenes_classification.py',
    '../_base_/schedules/digit_scenes_classification.py',
    '../_base_/runtime/digit_scenes_mmpretrain.py',
]

model = dict(
    backbone=_base_.backbone,
    head=dict(num_classes=10, topk=(1,), loss=dict(label_smooth=0.0)),
)
