# Mask R-CNN as ResNeSt trains it: SyncBN in backbone, FPN, mask head and a box
# head of four convolutions and one linear layer; stem and first stage frozen.
# A config names the backbone's type.
_base_ = './mask-rcnn_r50_fpn.py'

norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    backbone=dict(
        _delete_=True, frozen_stages=1, norm_cfg=norm_cfg, norm_eval=False
    ),
    neck=dict(norm_cfg=norm_cfg),
    roi_head=dict(
        bbox_head=dict(
            type='Shared4Conv1FCBBoxHead',
            conv_out_channels=256,
            norm_cfg=norm_cfg,
        ),
        mask_head=dict(norm_cfg=norm_cfg),
    ),
)
