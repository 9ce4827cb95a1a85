# AdamW as DeiT trains: the rate is 5e-4 x batch / 512 and rises from 1e-6. No
# weight decay on norms, biases and other one-dimensional parameters.
_base_ = './timm_cosine_300e.py'

optim_wrapper = dict(
    type='AmpOptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
    paramwise_cfg=dict(
        norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0
    ),
)

# 8 GPUs x 128 images
auto_scale_lr = dict(enable=False, base_batch_size=1024)
