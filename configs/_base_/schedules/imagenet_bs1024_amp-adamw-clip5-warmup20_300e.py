# The same with clipped gradients and 20 epochs of warm-up.
_base_ = './imagenet_bs1024_amp-adamw_300e.py'

optim_wrapper = dict(clip_grad=dict(max_norm=5.0))
param_scheduler = [
    dict(_base_.param_scheduler[0], end=21),
    _base_.param_scheduler[1],
]
