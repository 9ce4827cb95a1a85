# The same at 384 x 384; as at 224, the test crop is 224/256 of the short side.
_base_ = './imagenet_bs256_repeataug_224.py'

change = dict(
    RandomResizedCrop=dict(scale=384),
    ResizeEdge=dict(scale=438),
    CenterCrop=dict(crop_size=384),
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
