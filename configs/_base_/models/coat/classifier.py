# ImageNet classifier on class tokens; mixup or CutMix on every batch. A config
# names the network, and the width and number of its class tokens.
model = dict(
    type='ImageClassifier',
    backbone=dict(type='CoaT', out_indices=(3,), with_cls_token=True),
    neck=None,
    head=dict(
        type='CoaTClsHead',
        num_classes=1000,
        loss=dict(
            type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'
        ),
    ),
    train_cfg=dict(
        augments=[
            dict(type='Mixup', alpha=0.8),
            dict(type='CutMix', alpha=1.0),
        ]
    ),
)
