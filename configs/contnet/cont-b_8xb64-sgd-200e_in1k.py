# ConT-B, basic recipe (Table 2 of the paper).
_base_ = [
    '../_base_/models/contnet/classifier.py',
    '../_base_/datasets/imagenet_bs64_bilinear_224.py',
    '../_base_/schedules/imagenet_bs512_sgd-ste0.005_200e.py',
    '../_base_/runtime/mmpretrain.py',
]

model = dict(backbone=dict(arch='b'))
