# DINO pre-training of Container-Light (Table 6 of the paper), with the settings
# of DINO's own short runs.
_base_ = [
    '../_base_/models/dino.py',
    '../_base_/datasets/imagenet_bs64_multi-crop_224.py',
    '../_base_/schedules/imagenet_bs512_amp-adamw-dino_100e.py',
    '../_base_/runtime/mmpretrain.py',
]

model = dict(
    backbone=dict(
        type='Container',
        arch='light',
        out_indices=(3,),
        norm_cfg=dict(type='SyncBN'),
        drop_path_rate=0.1,
    ),
    neck=dict(in_channels=512),
    head=dict(in_channels=512),
)

custom_hooks = [
    dict(type='FrozenFirst', prefix='head.last_layer.', epochs=1),
    dict(type='FeatureBank', dataset=_base_.bank_dataset),
]
