# CoaT-Lite Medium (Tables 2 and 8 of the paper).
_base_ = [
    '../_base_/models/coat/classifier.py',
    '../_base_/datasets/imagenet_bs256_repeataug_224.py',
    '../_base_/schedules/imagenet_bs1024_amp-adamw-clip5-warmup20_300e.py',
    '../_base_/runtime/mmpretrain.py',
]

model = dict(
    backbone=dict(arch='lite_medium', drop_path_rate=0.3),
    head=dict(in_channels=512),
)
train_dataloader = dict(batch_size=128)
