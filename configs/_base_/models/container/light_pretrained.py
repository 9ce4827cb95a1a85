# Container-Light as released, as the backbone of a detector.
container_light = dict(
    type='Container',
    arch='light',
    drop_path_rate=0.1,
    norm_cfg=dict(type='SyncBN'),
    init_cfg=dict(
        type='Pretrained',
        checkpoint='mmctx://container_light',
        prefix='backbone.',
    ),
)
