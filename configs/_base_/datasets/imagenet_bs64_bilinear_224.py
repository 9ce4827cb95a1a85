# ImageNet-1k with crop and flip only, resized as Pillow does it.
_base_ = 'mmpretrain::_base_/datasets/imagenet_bs64.py'

resize = dict(backend='pillow', interpolation='bilinear')
train_pipeline = [
    dict(step, **resize) if step.type == 'RandomResizedCrop' else step
    for step in _base_.train_pipeline
]
test_pipeline = [
    dict(step, **resize) if step.type == 'ResizeEdge' else step
    for step in _base_.test_pipeline
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
