# The same without the mask head.
_base_ = './cascade-mask-rcnn_fpn_syncbn-4conv1fc.py'

model = dict(roi_head=dict(mask_roi_extractor=None, mask_head=None))
