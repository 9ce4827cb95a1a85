# 16 epochs of 47 iterations: minutes on two CPU cores.
train_cfg = dict(by_epoch=True, max_epochs=16, val_interval=1)
val_cfg = dict()
test_cfg = dict()

optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=3e-3, weight_decay=0.05, fused=True),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=50),
    dict(
        type='CosineAnnealingLR',
        T_max=16,
        eta_min=1e-5,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]

# base_batch_size = (1 process) x (64 images)
auto_scale_lr = dict(enable=False, base_batch_size=64)
