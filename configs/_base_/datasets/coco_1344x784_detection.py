# COCO boxes, images of at most 1344 x 784 instead of 1333 x 800.
_base_ = './coco_detection.py'

train_pipeline = [
    dict(step, scale=(1344, 784)) if step.type == 'Resize' else step
    for step in _base_.train_pipeline
]
test_pipeline = [
    dict(step, scale=(1344, 784)) if step.type == 'Resize' else step
    for step in _base_.test_pipeline
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
