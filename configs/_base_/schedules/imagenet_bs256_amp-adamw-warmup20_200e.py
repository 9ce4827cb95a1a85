_base_ = './imagenet_bs4096_amp-adamw-warmup20_300e.py'

optim_wrapper = dict(optimizer=dict(lr=1e-4, weight_decay=0.01))
train_cfg = dict(max_epochs=200)
param_scheduler = [
    dict(_base_.param_scheduler[0], start_factor=1e-7 / 1e-4),
    dict(_base_.param_scheduler[1], end=200),
]

# 8 GPUs x 32 images
auto_scale_lr = dict(base_batch_size=256)
