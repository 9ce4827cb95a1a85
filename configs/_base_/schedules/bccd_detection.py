# 8 epochs of 52 iterations: half an hour or less on two CPU cores.
_base_ = 'digit_scenes_detection.py'

train_cfg = dict(max_epochs=8)
param_scheduler = [
    _base_.param_scheduler[0],
    dict(_base_.param_scheduler[1], T_max=8),
]

# base_batch_size = (1 process) x (4 images)
auto_scale_lr = dict(base_batch_size=4)
