# The same at 320 x 320; the test crop is 0.909 of the short side.
_base_ = './imagenet_bs64_randaug-m15_224.py'

crop_size = 320
policies = [
    dict(step, magnitude_range=(0, 150 / crop_size))
    if step.type == 'Translate'
    else step
    for step in _base_.policies
]
change = dict(
    RandomResizedCrop=dict(scale=crop_size),
    RandAugment=dict(policies=policies),
    ResizeEdge=dict(scale=352),
    CenterCrop=dict(crop_size=crop_size),
)
train_pipeline = [
    dict(step, **change.get(step.type, {})) for step in _base_.train_pipeline
]
test_pipeline = [
    dict(step, **change.get(step.type, {})) for step in _base_.test_pipeline
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
