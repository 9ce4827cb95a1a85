_base_ = 'mmdet::_base_/models/cascade-mask-rcnn_r50_fpn.py'
