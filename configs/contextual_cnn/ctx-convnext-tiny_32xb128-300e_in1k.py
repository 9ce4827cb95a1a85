# Contextual ConvNeXt-T (Table 1 of the paper); mixup or CutMix on every batch.
_base_ = [
    '../_base_/models/contextual_cnn/classifier.py',
    '../_base_/datasets/imagenet_bs128_randaug-m9-erasing_224.py',
    '../_base_/schedules/imagenet_bs4096_amp-adamw-warmup20_300e.py',
    '../_base_/hooks/ema_1e-4.py',
    '../_base_/runtime/mmpretrain.py',
]

model = dict(
    backbone=dict(type='ContextualConvNeXt', arch='tiny', drop_path_rate=0.1),
    train_cfg=dict(
        augments=[
            dict(type='Mixup', alpha=0.8),
            dict(type='CutMix', alpha=1.0),
        ]
    ),
)
