# The same with a focal loss, in the matching, too: for the detectors that
# start from DETR but score classes with sigmoids.
_base_ = 'digit_scenes_detr.py'

model = dict(
    bbox_head=dict(
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
                *_base_.model.train_cfg.assigner.match_costs[1:],
            ]
        )
    ),
)
