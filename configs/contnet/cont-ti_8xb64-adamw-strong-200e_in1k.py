# ConT-Ti, strong augmentation (Table 4 of the paper), with the paper's MLPs.
# The released ones are slightly wider: arch='ti' fits the released weights.
_base_ = [
    '../_base_/models/contnet/classifier_strong.py',
    '../_base_/datasets/imagenet_bs64_randaug-m9_224.py',
    '../_base_/schedules/imagenet_bs512_adamw_200e.py',
    '../_base_/runtime/mmpretrain.py',
]

model = dict(backbone=dict(arch='ti_paper'), head=dict(in_channels=768))
