# 6 epochs of 150 iterations. Gradients are clipped as DETR's are. Nothing is
# pre-trained: the backbone has the rate of the other detectors here, and the
# transformer half of it, as with the full one the loss stalled in the warm-up.
_base_ = 'digit_scenes_detection.py'

train_cfg = dict(max_epochs=6)
optim_wrapper = dict(
    optimizer=dict(lr=5e-4, weight_decay=1e-4),
    paramwise_cfg=dict(custom_keys={'backbone': dict(lr_mult=2.0)}),
    clip_grad=dict(max_norm=0.1),
)
param_scheduler = [
    dict(_base_.param_scheduler[0], end=100),
    dict(_base_.param_scheduler[1], T_max=6),
]
