# ImageNet classifier, advanced setup: mixup or CutMix on every batch, dropout
# before the classifier, stochastic depth.
_base_ = './classifier.py'

model = dict(
    backbone=dict(drop_path_rate=0.1),
    neck=dict(_delete_=True, type='PooledDropout', drop_rate=0.25),
    train_cfg=dict(
        augments=[
            dict(type='Mixup', alpha=0.8),
            dict(type='CutMix', alpha=1.0),
        ]
    ),
)
