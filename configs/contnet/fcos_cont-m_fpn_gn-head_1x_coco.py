# FCOS on ConT-M (Table 5 of the paper).
_base_ = [
    '../_base_/models/contnet/m_pretrained.py',
    '../_base_/common/fcos_fpn_gn-head_1x-1344x784_coco.py',
]

model = dict(
    data_preprocessor=dict(pad_size_divisor=112),
    backbone=_base_.contnet_m,
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
