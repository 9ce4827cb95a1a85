_base_ = './imagenet_bs512_sgd_350e.py'

optim_wrapper = dict(optimizer=dict(lr=0.25))
param_scheduler = [
    dict(_base_.param_scheduler[0], start_factor=1e-4 / 0.25),
    _base_.param_scheduler[1],
]

# 8 GPUs x 80 images
auto_scale_lr = dict(base_batch_size=640)
