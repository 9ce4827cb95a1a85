# Cascade Mask R-CNN as ResNeSt trains it in detectron2: SyncBN in backbone, FPN,
# mask head and box heads of four convolutions and one linear layer; L1 losses
# that count alike in all stages; one mask head; stem and first stage frozen. A
# config names the backbone's type.
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
        type='SingleMaskCascadeRoIHead',
        stage_loss_weights=[1, 1, 1],
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
    train_cfg=dict(
        rpn=dict(allowed_border=-1),
        # Later stages learn from all boxes of the one before, drawn once.
        rcnn=[
            _base_.model.train_cfg.rcnn[0],
            *(
                dict(stage, sampler=dict(type='PseudoSampler'))
                for stage in _base_.model.train_cfg.rcnn[1:]
            ),
        ],
    ),
)
