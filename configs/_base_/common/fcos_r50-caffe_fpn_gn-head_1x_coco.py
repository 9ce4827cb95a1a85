# FCOS on ResNet-50, 12 epochs.
_base_ = 'mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py'

custom_imports = dict(imports=['mmctx'], allow_failed_imports=False)
