# Mask R-CNN on Container-Light (Table 4 of the paper).
_base_ = [
    '../_base_/models/container/light_pretrained.py',
    '../_base_/common/mask-rcnn_fpn_amp-ms-crop-1x_coco.py',
]

model = dict(
    backbone=_base_.container_light,
    neck=dict(in_channels=[64, 128, 320, 512]),
)
# As Swin trains it.
optim_wrapper = dict(paramwise_cfg=dict(_delete_=True, norm_decay_mult=0.0))
param_scheduler = [
    dict(_base_.param_scheduler[0], end=1000),
    _base_.param_scheduler[1],
]
