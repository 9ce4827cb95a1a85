# Single DigitScenes digits in two global and four local views. A mirrored digit
# is another sign, so no view is flipped, and local views are large enough to
# tell digits apart.
_base_ = './digit_scenes_classification.py'

data_preprocessor = dict(
    _delete_=True,
    type='SelfSupDataPreprocessor',
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True,
)

global_crop = dict(
    type='RandomResizedCrop', scale=64, crop_ratio_range=(0.5, 1.0)
)
local_crop = dict(global_crop, scale=32, crop_ratio_range=(0.2, 0.5))
colours = [
    dict(
        type='RandomApply',
        transforms=[
            dict(
                type='ColorJitter',
                brightness=0.4,
                contrast=0.4,
                saturation=0.2,
                hue=0.1,
            )
        ],
        prob=0.8,
    ),
    dict(
        type='RandomGrayscale',
        prob=0.2,
        keep_channels=True,
        channel_weights=(0.114, 0.587, 0.2989),
    ),
]
solarize = dict(type='Solarize', thr=128, prob=0.2)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='MultiView',
        num_views=[1, 1, 4],
        transforms=[
            [global_crop, *colours],
            [global_crop, *colours, solarize],
            [local_crop, *colours],
        ],
    ),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    drop_last=True,
    collate_fn=dict(type='default_collate'),
    dataset=dict(pipeline=train_pipeline),
)

val_dataloader = dict(collate_fn=dict(type='default_collate'))
test_dataloader = val_dataloader
bank_dataset = dict(_base_.val_dataloader.dataset, data_prefix='train')
