# SE-CoTNetD-152 at 320 x 320, advanced setup (Table 4 of the paper).
_base_ = [
    '../_base_/models/cotnet/classifier_advanced.py',
    '../_base_/datasets/imagenet_bs64_randaug-m15_320.py',
    '../_base_/schedules/imagenet_bs512_sgd_350e.py',
    '../_base_/hooks/ema_1e-4.py',
    '../_base_/runtime/mmpretrain_sync-buffers.py',
]

model = dict(backbone=dict(type='SECoTNetD', depth=152, drop_path_rate=0.15))
