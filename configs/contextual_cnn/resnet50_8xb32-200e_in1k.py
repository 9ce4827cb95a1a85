# ResNet-50 (rows a1 and c1 of Tables 4 and 6 of the paper).
_base_ = [
    '../_base_/models/resnet50_classifier.py',
    '../_base_/datasets/imagenet_bs32_bicubic-randaug-m9_224.py',
    '../_base_/schedules/imagenet_bs256_amp-adamw-warmup20_200e.py',
    '../_base_/runtime/mmpretrain_sync-buffers.py',
]

model = dict(
    head=dict(
        loss=dict(
            _delete_=True,
            type='LabelSmoothLoss',
            label_smooth_val=0.1,
            mode='original',
        )
    )
)
