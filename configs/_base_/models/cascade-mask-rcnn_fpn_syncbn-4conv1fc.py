# Cascade Mask R-CNN as ResNeSt trains it: SyncBN in backbone, FPN, mask heads
# and box heads of four convolutions and one linear layer; L1 losses; stem and
# first stage frozen. A config names the backbone's type.
_base_ = './cascade-mask-rcnn_r50_fpn.py'

norm_cfg = dict(type='SyncBN', requires_grad=True)
l1_loss = dict(type='L1Loss', loss_weight=1.0)
# detectron2's box weights (10, 5), (20, 10), (30, 15), inverted
box_stds = [
    [1 / 10, 1 / 10, 1 / 5, 1 / 5],
    [1 / 20, 1 / 20, 1 / 10, 1 / 10],
    [1 / 30, 1 / 30, 1 / 15, 1 / 15],
]
model = dict(
    backbone=dict(
        _delete_=True, frozen_stages=1, norm_cfg=norm_cfg, norm_eval=False
    ),
    neck=dict(norm_cfg=norm_cfg),
    rpn_head=dict(loss_bbox=dict(_delete_=True, **l1_loss)),
    roi_head=dict(
        bbox_head=[
            dict(
                head,
                type='Shared4Conv1FCBBoxHead',
                conv_out_channels=256,
                norm_cfg=norm_cfg,
                bbox_coder=dict(head.bbox_coder, target_stds=stds),
                loss_bbox=l1_loss,
            )
            for head, stds in zip(_base_.model.roi_head.bbox_head, box_stds)
        ],
        mask_head=dict(norm_cfg=norm_cfg),
    ),
)
