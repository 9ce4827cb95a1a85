# ImageNet-1k with crop, flip and timm's RandAugment of magnitude 9, all
# bicubic. Test images keep 95 % of each side.
_base_ = 'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py'

train_pipeline = [
    step for step in _base_.train_pipeline if step['type'] != 'RandomErasing'
]
test_pipeline = [
    dict(step, scale=235) if step['type'] == 'ResizeEdge' else step
    for step in _base_.test_pipeline
]
train_dataloader = dict(batch_size=32, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=32, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
