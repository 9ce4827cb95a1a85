# The same for 12 epochs.
_base_ = './mask-rcnn_fpn_amp-ms-crop-3x_coco.py'

train_cfg = dict(max_epochs=12)
param_scheduler = [
    _base_.param_scheduler[0],
    dict(_base_.param_scheduler[1], end=12, milestones=[8, 11]),
]
