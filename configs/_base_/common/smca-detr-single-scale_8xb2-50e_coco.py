# SMCA-DETR on the map of stride 32: DETR with a Gaussian prior in the
# co-attention, 300 queries and a focal loss. A config names the backbone and
# the neck's input.
_base_ = './detr_8xb2-50e_coco.py'

model = dict(
    type='SMCADETR',
    num_queries=300,
    stride=32,
    decoder=dict(smoothness=8.0),
    bbox_head=dict(
        type='ConditionalDETRHead',
        # The focal loss is divided by the objects of all processes.
        sync_cls_avg_factor=True,
        loss_cls=dict(
            _delete_=True,
            type='FocalLoss',
            use_sigmoid=True,
            alpha=0.25,
            gamma=2.0,
            loss_weight=2.0,
        ),
    ),
    train_cfg=dict(
        assigner=dict(
            match_costs=[
                dict(type='FocalLossCost', weight=2.0),
                dict(type='BBoxL1Cost', weight=5.0, box_format='xywh'),
                dict(type='IoUCost', iou_mode='giou', weight=2.0),
            ]
        )
    ),
)
