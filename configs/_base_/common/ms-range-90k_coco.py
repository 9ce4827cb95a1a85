# The same with a short side drawn from all of 640 to 800.
_base_ = './ms-90k_coco.py'

train_pipeline = [
    dict(
        type='RandomResize',
        scale=[(1333, 640), (1333, 800)],
        keep_ratio=True,
        backend=_base_.backend,
    )
    if step.type == 'RandomChoiceResize'
    else step
    for step in _base_.train_pipeline
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
