# The longer schedule: 350 epochs, warm-up from 1e-4, less weight decay.
_base_ = './imagenet_bs512_sgd_100e.py'

optim_wrapper = dict(optimizer=dict(weight_decay=4e-5))
train_cfg = dict(max_epochs=350)
param_scheduler = [
    dict(_base_.param_scheduler[0], start_factor=1e-4 / 0.2),
    dict(_base_.param_scheduler[1], end=350),
]
