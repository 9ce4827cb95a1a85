# Deformable DETR on one scale on ResNet-50 (baseline of Table 5 of the paper).
_base_ = [
    '../_base_/models/r50_frozen-norms.py',
    '../_base_/common/deformable-detr-single-scale_16xb2-50e_coco.py',
]

model = dict(backbone=_base_.resnet50, neck=dict(in_channels=[2048]))
