# Mask R-CNN on ConT-M (Table 6 of the paper).
_base_ = [
    '../_base_/models/contnet/m_pretrained.py',
    '../_base_/models/mask-rcnn_r50_fpn.py',
    '../_base_/datasets/coco_1344x784_instance.py',
    '../_base_/schedules/coco_1x.py',
    '../_base_/runtime/mmdet.py',
]

model = dict(
    data_preprocessor=dict(pad_size_divisor=112),
    backbone=dict(_delete_=True, **_base_.contnet_m),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
