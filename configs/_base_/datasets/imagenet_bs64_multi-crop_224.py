# ImageNet-1k in two global and eight local views, as DINO trains. Evaluation
# compares with `bank_dataset`: the training images as in evaluation.
_base_ = './imagenet_bs64_bicubic_224.py'

data_preprocessor = dict(
    _delete_=True,
    type='SelfSupDataPreprocessor',
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True,
)

global_crop = dict(
    type='RandomResizedCrop',
    scale=224,
    crop_ratio_range=(0.4, 1.0),
    backend='pillow',
    interpolation='bicubic',
)
local_crop = dict(global_crop, scale=96, crop_ratio_range=(0.05, 0.4))
flip_and_colours = [
    dict(type='RandomFlip', prob=0.5),
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
blur = dict(
    type='GaussianBlur', magnitude_range=(0.1, 2.0), magnitude_std='inf'
)
solarize = dict(type='Solarize', thr=128, prob=0.2)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='MultiView',
        num_views=[1, 1, 8],
        transforms=[
            [global_crop, *flip_and_colours, dict(blur, prob=1.0)],
            [global_crop, *flip_and_colours, dict(blur, prob=0.1), solarize],
            [local_crop, *flip_and_colours, dict(blur, prob=0.5)],
        ],
    ),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    num_workers=8,
    drop_last=True,
    collate_fn=dict(type='default_collate'),
    dataset=dict(pipeline=train_pipeline),
)

val_dataloader = dict(collate_fn=dict(type='default_collate'))
test_dataloader = val_dataloader
bank_dataset = dict(_base_.val_dataloader.dataset, split='train')

val_evaluator = dict(topk=(1,))
test_evaluator = val_evaluator
