# SGD with Nesterov momentum, as CoTNet trains: the rate is 0.1 x batch / 256 and
# rises from 0 (in effect: from a millionth). No weight decay on norms, biases
# and other one-dimensional parameters.
_base_ = './timm_cosine_300e.py'

optim_wrapper = dict(
    optimizer=dict(
        type='SGD', lr=0.2, momentum=0.9, weight_decay=1e-4, nesterov=True
    ),
    paramwise_cfg=dict(
        norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0
    ),
)
train_cfg = dict(max_epochs=100)
param_scheduler = [
    dict(_base_.param_scheduler[0], start_factor=1e-6),
    dict(_base_.param_scheduler[1], end=100),
]

# 8 GPUs x 64 images
auto_scale_lr = dict(enable=False, base_batch_size=512)
