_base_ = 'mmdet::_base_/models/cascade-rcnn_r50_fpn.py'
