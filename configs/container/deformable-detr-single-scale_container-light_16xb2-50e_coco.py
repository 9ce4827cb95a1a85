# Deformable DETR on one scale on Container-Light (Table 5 of the paper).
_base_ = [
    '../_base_/models/container/light_pretrained.py',
    '../_base_/common/deformable-detr-single-scale_16xb2-50e_coco.py',
]

model = dict(
    backbone=_base_.container_light,
    neck=dict(in_channels=[512]),
)
