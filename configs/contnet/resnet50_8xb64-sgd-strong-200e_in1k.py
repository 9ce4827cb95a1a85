# ResNet-50, strong augmentation (baseline of Table 3 of the paper).
_base_ = [
    '../_base_/models/contnet/classifier_strong.py',
    '../_base_/datasets/imagenet_bs64_randaug-m9_224.py',
    '../_base_/schedules/imagenet_bs512_sgd_200e.py',
    '../_base_/runtime/mmpretrain.py',
]

model = dict(
    backbone=dict(_delete_=True, type='ResNet', depth=50),
    head=dict(in_channels=2048),
)
