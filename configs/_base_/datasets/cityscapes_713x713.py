# The same in crops of 713 x 713.
_base_ = './cityscapes_672x672.py'

train_pipeline = [
    dict(step, crop_size=(713, 713)) if step.type == 'RandomCrop' else step
    for step in _base_.train_pipeline
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
