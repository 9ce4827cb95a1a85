# Two views of single DigitScenes digits, in the middle of their pictures. What
# views share besides the digit is what a network learns instead: hence grey
# views, a stretched contrast, which hides how bright a background is, turns and
# some blur. A mirrored digit is another sign, so no view is flipped.
_base_ = './digit_scenes_classification.py'

custom_hooks = [dict(_base_.custom_hooks[0], part='centered')]

data_root = 'data/digit_scenes/centered/'
data_preprocessor = dict(
    _delete_=True,
    type='SelfSupDataPreprocessor',
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True,
)

stretch = dict(type='AutoContrast', prob=1.0)
view = [
    dict(
        type='Rotate',
        magnitude_range=(0.0, 12.0),
        magnitude_std='inf',
        prob=1.0,
        pad_val=(64, 64, 64),
        interpolation='bilinear',
    ),
    dict(type='RandomResizedCrop', scale=64, crop_ratio_range=(0.5, 1.0)),
    stretch,
    dict(
        type='ColorJitter',
        brightness=0.4,
        contrast=0.4,
        saturation=0.4,
        backend='cv2',
    ),
    dict(
        type='RandomGrayscale',
        prob=0.6,
        keep_channels=True,
        channel_weights=(0.114, 0.587, 0.2989),
    ),
    dict(
        type='GaussianBlur',
        magnitude_range=(0.1, 2.0),
        magnitude_std='inf',
        prob=0.3,
    ),
]
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='MultiView', num_views=2, transforms=[view]),
    dict(type='PackInputs'),
]
pipeline = [dict(type='LoadImageFromFile'), stretch, dict(type='PackInputs')]

train_dataloader = dict(
    drop_last=True,
    collate_fn=dict(type='default_collate'),
    dataset=dict(data_root=data_root, pipeline=train_pipeline),
)
val_dataloader = dict(
    collate_fn=dict(type='default_collate'),
    dataset=dict(data_root=data_root, pipeline=pipeline),
)
test_dataloader = val_dataloader
bank_dataset = dict(
    _base_.val_dataloader.dataset,
    data_root=data_root,
    data_prefix='train',
    pipeline=pipeline,
)
