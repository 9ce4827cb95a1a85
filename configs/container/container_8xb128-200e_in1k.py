# Container in 200 epochs (79.9 in the abstract of the paper), with a schedule of
# that length.
_base_ = [
    '../_base_/models/container/classifier.py',
    '../_base_/datasets/imagenet_bs256_repeataug_224.py',
    '../_base_/schedules/imagenet_bs1024_amp-adamw_200e.py',
    '../_base_/hooks/ema_4e-5_score-raw.py',
    '../_base_/runtime/mmpretrain.py',
]

model = dict(backbone=dict(arch='full'))
train_dataloader = dict(batch_size=128)
