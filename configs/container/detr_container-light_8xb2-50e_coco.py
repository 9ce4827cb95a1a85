# DETR on Container-Light (Table 5 of the paper).
_base_ = [
    '../_base_/models/container/light_pretrained.py',
    '../_base_/common/detr_8xb2-50e_coco.py',
]

model = dict(
    backbone=_base_.container_light,
    neck=dict(in_channels=[512]),
)
