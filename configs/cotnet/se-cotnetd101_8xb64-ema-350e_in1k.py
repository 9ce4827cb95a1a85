# SE-CoTNetD-101, advanced setup (Table 4 of the paper).
_base_ = [
    '../_base_/models/cotnet/classifier_advanced.py',
    '../_base_/datasets/imagenet_bs64_randaug-m15_224.py',
    '../_base_/schedules/imagenet_bs512_sgd_350e.py',
    '../_base_/hooks/ema_1e-4.py',
    '../_base_/runtime/mmpretrain_sync-buffers.py',
]

model = dict(backbone=dict(type='SECoTNetD', depth=101))
