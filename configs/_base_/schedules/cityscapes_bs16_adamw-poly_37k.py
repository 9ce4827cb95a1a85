# The same with AdamW, one rate, and the warm-up and clipping of mmseg's AdamW
# recipe for PSPNet.
_base_ = './cityscapes_bs16_sgd-poly_37k.py'

optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=5e-4, weight_decay=0.05),
    paramwise_cfg=None,
    clip_grad=dict(max_norm=1, norm_type=2),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, end=1000),
    dict(_base_.param_scheduler[0], begin=1000),
]
