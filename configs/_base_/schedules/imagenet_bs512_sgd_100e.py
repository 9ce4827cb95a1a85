# SGD with Nesterov momentum; the rate is 0.1 x batch / 256, rises from 0 over
# five epochs, and falls along a cosine that steps once per epoch. No weight
# decay on norms, biases and other one-dimensional parameters.
_base_ = 'mmpretrain::_base_/schedules/imagenet_bs1024_coslr.py'

optim_wrapper = dict(
    optimizer=dict(lr=0.2, weight_decay=1e-4, nesterov=True),
    paramwise_cfg=dict(
        norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0
    ),
)
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=1e-6,
        begin=0,
        end=5,
        convert_to_iter_based=True,
    ),
    dict(type='CosineAnnealingLR', T_max=95, eta_min=1e-5, begin=5, end=100),
]

# 8 GPUs x 64 images
auto_scale_lr = dict(enable=False, base_batch_size=512)
