# 6 epochs of 150 iterations. Gradients are clipped as DETR's are; the rate is
# ten times its own, for all parts alike, as nothing is pre-trained.
_base_ = 'digit_scenes_detection.py'

train_cfg = dict(max_epochs=6)
optim_wrapper = dict(
    optimizer=dict(lr=1e-3, weight_decay=1e-4),
    clip_grad=dict(max_norm=0.1),
)
param_scheduler = [
    dict(_base_.param_scheduler[0], end=100),
    dict(_base_.param_scheduler[1], T_max=6),
]
