# AdamW as DeiT trains: the rate is 5e-4 x batch / 512, rises from 1e-6 over
# five epochs, and falls along a cosine that steps once per epoch. No weight
# decay on norms, biases and other one-dimensional parameters.
_base_ = 'mmpretrain::_base_/schedules/imagenet_bs1024_adamw_swin.py'

optim_wrapper = dict(
    type='AmpOptimWrapper',
    optimizer=dict(lr=1e-3),
    paramwise_cfg=dict(
        _delete_=True,
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        flat_decay_mult=0.0,
    ),
)
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-6 / 1e-3,
        begin=0,
        end=5,
        convert_to_iter_based=True,
    ),
    dict(type='CosineAnnealingLR', T_max=295, eta_min=1e-5, begin=5, end=300),
]

# 8 GPUs x 128 images
auto_scale_lr = dict(enable=False, base_batch_size=1024)
