# BCCD (github.com/Shenggan/BCCD_Dataset): photographs of blood cells at half
# their size, boxes in COCO's format.
_base_ = 'digit_scenes_detection.py'

custom_hooks = []  # nothing is drawn
data_root = 'data/bccd/'
metainfo = dict(
    classes=('RBC', 'WBC', 'Platelets'),
    palette=[(220, 60, 60), (60, 90, 220), (60, 180, 75)],
)

resize = dict(type='Resize', scale=(320, 240), keep_ratio=True)
train_pipeline = [
    *_base_.train_pipeline[:2],
    resize,
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    _base_.test_pipeline[0],
    resize,
    *_base_.test_pipeline[2:],
]

train_dataloader = dict(
    batch_size=4,
    dataset=dict(
        data_root=data_root,
        ann_file='train.json',
        data_prefix=dict(img='train/'),
        metainfo=metainfo,
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        data_root=data_root,
        ann_file='val.json',
        data_prefix=dict(img='val/'),
        metainfo=metainfo,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(ann_file=data_root + 'val.json', classwise=True)
test_evaluator = val_evaluator
