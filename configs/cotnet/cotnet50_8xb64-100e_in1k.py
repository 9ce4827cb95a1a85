# CoTNet-50, default setup (Tables 3, 5 and 6 of the paper).
_base_ = [
    '../_base_/models/cotnet/classifier.py',
    '../_base_/datasets/imagenet_bs64_bicubic_224.py',
    '../_base_/schedules/imagenet_bs512_sgd_100e.py',
    '../_base_/runtime/mmpretrain_sync-buffers.py',
]

model = dict(backbone=dict(type='CoTNet', depth=50))
