# The same with two rates, 0.005 inside the patch-wise encoders (STE) of ConTNet
# and 0.2 elsewhere.
_base_ = './imagenet_bs512_sgd_200e.py'

optim_wrapper = dict(
    paramwise_cfg=dict(
        # A custom key switches the rules on weight decay off, and of several
        # keys that fit the longest counts: norms and biases in there need
        # their own.
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
