# ImageNet-1k with crop, flip and the RandAugment of the CoTNet release.
_base_ = [
    './imagenet_bs64_bicubic_224.py',
    './pipelines/randaug_m15.py',
]

train_pipeline = [
    *_base_.train_pipeline[:-1],
    dict(
        type='RandAugment',
        policies=_base_.policies,
        num_policies=2,
        magnitude_level=15,
        magnitude_std=0.5,
        total_level=15,
        hparams=dict(
            pad_val=[round(x) for x in _base_.data_preprocessor['mean'][::-1]],
            interpolation='bicubic',
        ),
    ),
    _base_.train_pipeline[-1],
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
