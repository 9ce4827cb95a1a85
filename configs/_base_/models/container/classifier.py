# ImageNet classifier on the normalised and pooled last map; mixup or CutMix on
# every batch. A config names the network's arch.
_base_ = '../resnet50_classifier.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='Container',
        out_indices=(3,),
        drop_path_rate=0.1,
    ),
    neck=dict(_delete_=True, type='NormedPooling', in_channels=512),
    head=dict(
        in_channels=512,
        init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02),
        loss=dict(
            _delete_=True,
            type='LabelSmoothLoss',
            label_smooth_val=0.1,
            mode='original',
        ),
    ),
    train_cfg=dict(
        augments=[
            dict(type='Mixup', alpha=0.8),
            dict(type='CutMix', alpha=1.0),
        ]
    ),
)
