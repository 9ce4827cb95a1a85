_base_ = [
    '../_base_/models/resnet50_classifier.py',
    '../_base_/datasets/digit_scenes_classification.py',
    '../_base_/schedules/digit_scenes_classification.py',
    '../_base_/runtime/digit_scenes_mmpretrain.py',
]

model = dict(
    backbone=dict(_delete_=True, type='ResNet', depth=18, base_channels=16),
    head=dict(num_classes=10, in_channels=128, topk=(1,)),
)
