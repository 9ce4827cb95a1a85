# ImageNet classifier. A config names the network's arch.
_base_ = '../resnet50_classifier.py'

model = dict(
    backbone=dict(
        _delete_=True, type='ConTNet', dense=False, out_indices=(3,)
    ),
    head=dict(
        in_channels=1024,
        init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02),
        loss=dict(
            _delete_=True,
            type='LabelSmoothLoss',
            label_smooth_val=0.1,
            mode='original',
        ),
    ),
)
