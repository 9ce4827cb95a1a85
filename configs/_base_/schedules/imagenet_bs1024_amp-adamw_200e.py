# The same for 200 epochs.
_base_ = './imagenet_bs1024_amp-adamw_300e.py'

train_cfg = dict(max_epochs=200)
param_scheduler = [
    _base_.param_scheduler[0],
    dict(_base_.param_scheduler[1], end=200),
]
