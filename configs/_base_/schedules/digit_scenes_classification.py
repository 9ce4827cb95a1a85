# 10 epochs of 94 iterations: minutes on two CPU cores.
train_cfg = dict(by_epoch=True, max_epochs=10, val_interval=1)
val_cfg = dict()
test_cfg = dict()

optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=50),
    dict(
        type='CosineAnnealingLR',
        T_max=10,
        eta_min=1e-5,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]

# base_batch_size = (1 process) x (32 images)
auto_scale_lr = dict(enable=False, base_batch_size=32)
