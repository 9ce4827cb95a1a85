# CoaT Mini (Table 2 of the paper).
_base_ = [
    '../_base_/models/coat/classifier.py',
    '../_base_/datasets/imagenet_bs256_repeataug_224.py',
    '../_base_/schedules/imagenet_bs2048_amp-adamw_300e.py',
    '../_base_/hooks/ema_4e-5_score-raw.py',
    '../_base_/runtime/mmpretrain.py',
]

model = dict(
    backbone=dict(arch='mini'),
    head=dict(in_channels=216, num_tokens=3),
)
