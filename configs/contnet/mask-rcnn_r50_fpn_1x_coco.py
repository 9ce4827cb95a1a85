# Mask R-CNN on ResNet-50, as in mmdet's model zoo (baseline of Table 6 of the
# paper).
_base_ = [
    '../_base_/models/mask-rcnn_r50_fpn.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/coco_1x.py',
    '../_base_/runtime/mmdet.py',
]
