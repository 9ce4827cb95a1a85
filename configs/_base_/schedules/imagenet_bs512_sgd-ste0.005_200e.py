# SGD for 200 epochs with two rates, 0.005 inside the patch-wise encoders (STE)
# of ConTNet and 0.2 elsewhere. Rates rise from 0 over ten epochs and fall to 0
# along a cosine that steps every iteration. No weight decay on norms, biases
# and other one-dimensional parameters.
_base_ = 'mmpretrain::_base_/schedules/imagenet_bs256_200e_coslr_warmup.py'

optim_wrapper = dict(
    optimizer=dict(lr=0.2, weight_decay=5e-5),
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        bias_decay_mult=0.0,
        flat_decay_mult=0.0,
        # A custom key switches the rules above off, and of several keys that
        # fit the longest counts: norms and biases in there need their own.
        custom_keys={
            '.ste.': dict(lr_mult=0.005 / 0.2),
            '.norm1.': dict(lr_mult=0.005 / 0.2, decay_mult=0.0),
            '.norm2.': dict(lr_mult=0.005 / 0.2, decay_mult=0.0),
            'qkv.bias': dict(lr_mult=0.005 / 0.2, decay_mult=0.0),
            'proj.bias': dict(lr_mult=0.005 / 0.2, decay_mult=0.0),
            'fc1.bias': dict(lr_mult=0.005 / 0.2, decay_mult=0.0),
            'fc2.bias': dict(lr_mult=0.005 / 0.2, decay_mult=0.0),
        },
    ),
)
param_scheduler = [
    dict(_base_.param_scheduler[0], start_factor=1e-6, end=10),
    dict(
        _base_.param_scheduler[1],
        T_max=190,
        begin=10,
        convert_to_iter_based=True,
    ),
]

# 8 GPUs x 64 images
auto_scale_lr = dict(enable=False, base_batch_size=512)
