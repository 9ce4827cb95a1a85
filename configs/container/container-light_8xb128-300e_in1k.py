# Container-Light (Tables 1 and 3 of the paper), as released.
_base_ = [
    '../_base_/models/container/classifier.py',
    '../_base_/datasets/imagenet_bs256_repeataug_224.py',
    '../_base_/schedules/imagenet_bs1024_amp-adamw_300e.py',
    '../_base_/hooks/ema_4e-5_score-raw.py',
    '../_base_/runtime/mmpretrain.py',
]

model = dict(backbone=dict(arch='light'))
train_dataloader = dict(batch_size=128)
