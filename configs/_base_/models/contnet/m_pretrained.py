# ConT-M as released, as the backbone of a detector.
contnet_m = dict(
    type='ConTNet',
    arch='m',
    norm_eval=True,
    init_cfg=dict(
        type='Pretrained',
        checkpoint='mmctx://contnet_m',
        prefix='backbone.',
    ),
)
