# 20 epochs of 46 iterations: minutes on two CPU cores. Weight decay stays
# constant.
train_cfg = dict(by_epoch=True, max_epochs=20, val_interval=4)
val_cfg = dict()
test_cfg = dict()

optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.04, fused=True),
    paramwise_cfg=dict(
        norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0
    ),
    clip_grad=dict(max_norm=3.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=30),
    dict(
        type='CosineAnnealingLR',
        T_max=20,
        eta_min=1e-6,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]

# base_batch_size = (1 process) x (64 images)
auto_scale_lr = dict(enable=False, base_batch_size=64)
