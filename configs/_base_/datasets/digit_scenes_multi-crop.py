# Single DigitScenes digits in two global and two local views. A mirrored
# digit is another sign, so no view is flipped; colours say little about a
# digit, so half of the views are grey; local views are large enough to tell
# digits apart.
_base_ = './digit_scenes_classification.py'

data_preprocessor = dict(
    _delete_=True,
    type='SelfSupDataPreprocessor',
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True,
)

global_crop = dict(
    type='RandomResizedCrop', scale=64, crop_ratio_range=(0.6, 1.0)
)
local_crop = dict(global_crop, scale=32, crop_ratio_range=(0.4, 0.8))
colours = [
    dict(
        type='ColorJitter',
        brightness=0.4,
        contrast=0.4,
        saturation=0.4,
        backend='cv2',
    ),
    dict(
        type='RandomGrayscale',
        prob=0.5,
        keep_channels=True,
        channel_weights=(0.114, 0.587, 0.2989),
    ),
]

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='MultiView',
        num_views=[2, 2],
        transforms=[[global_crop, *colours], [local_crop, *colours]],
    ),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=32,
    drop_last=True,
    collate_fn=dict(type='default_collate'),
    dataset=dict(pipeline=train_pipeline),
)

val_dataloader = dict(collate_fn=dict(type='default_collate'))
test_dataloader = val_dataloader
bank_dataset = dict(_base_.val_dataloader.dataset, data_prefix='train')
