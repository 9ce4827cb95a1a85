# ConT-M, strong augmentation (Tables 3, 4, 8, 9 and 11 of the paper).
_base_ = [
    '../_base_/models/contnet/classifier_strong.py',
    '../_base_/datasets/imagenet_bs64_randaug-m9_224.py',
    '../_base_/schedules/imagenet_bs512_adamw_200e.py',
    '../_base_/runtime/mmpretrain.py',
]

model = dict(backbone=dict(arch='m'))
