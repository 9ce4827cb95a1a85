# The light Faster R-CNN of DigitScenes; its anchors fit blood cells, too.
_base_ = 'digit_scenes_faster-rcnn_fpn.py'

model = dict(roi_head=dict(bbox_head=dict(num_classes=3)))
