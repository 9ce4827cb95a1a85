_base_ = './imagenet_bs1024_amp-adamw_300e.py'

optim_wrapper = dict(optimizer=dict(lr=2e-3))
param_scheduler = [
    dict(_base_.param_scheduler[0], start_factor=1e-6 / 2e-3),
    _base_.param_scheduler[1],
]

# 8 GPUs x 256 images
auto_scale_lr = dict(base_batch_size=2048)
