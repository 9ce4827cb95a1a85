# The same for 12 epochs.
_base_ = './cascade-mask-rcnn_fpn_4conv1fc-giou_amp-ms-crop-3x_coco.py'

max_epochs = 12
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    _base_.param_scheduler[0],
    dict(_base_.param_scheduler[1], end=max_epochs, milestones=[8, 11]),
]
