# Contextual ResNet-50 (rows a5, b4 and c4 of Tables 4 to 6 of the paper).
_base_ = [
    '../_base_/models/contextual_cnn/classifier.py',
    '../_base_/datasets/imagenet_bs32_bicubic-randaug-m9_224.py',
    '../_base_/schedules/imagenet_bs256_amp-adamw-warmup20_200e.py',
    '../_base_/runtime/mmpretrain_sync-buffers.py',
]

model = dict(backbone=dict(type='ContextualResNet', depth=50))
