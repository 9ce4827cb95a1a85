# ImageNet-1k with crop, flip and timm's RandAugment of magnitude 9. The paper
# of ConTNet says auto-augment: that is dict(type='AutoAugment',
# policies='imagenet') in the same place.
_base_ = './imagenet_bs64_bilinear_224.py'

train_pipeline = [
    *_base_.train_pipeline[:-1],
    dict(
        type='RandAugment',
        policies='timm_increasing',
        num_policies=2,
        total_level=10,
        magnitude_level=9,
        magnitude_std=0.5,
        hparams=dict(
            pad_val=[round(x) for x in _base_.data_preprocessor['mean'][::-1]],
            interpolation='bilinear',
        ),
    ),
    _base_.train_pipeline[-1],
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
