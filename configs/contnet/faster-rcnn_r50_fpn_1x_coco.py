# Faster R-CNN on ResNet-50, as in mmdet's model zoo (baseline of Table 5 of the
# paper).
_base_ = [
    '../_base_/models/faster-rcnn_r50_fpn.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/coco_1x.py',
    '../_base_/runtime/mmdet.py',
]
