# FCOS on ResNet-50, as in mmdet's model zoo (baseline of Table 5 of the paper).
_base_ = '../_base_/common/fcos_r50-caffe_fpn_gn-head_1x_coco.py'
