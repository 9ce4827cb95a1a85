# AdamW for 200 epochs, as ConTNet trains. No weight decay on norms, biases and
# other one-dimensional parameters.
_base_ = './timm_cosine_by-iteration_200e.py'

optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=5e-4, weight_decay=0.05),
    paramwise_cfg=dict(
        norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0
    ),
)

# 8 GPUs x 64 images
auto_scale_lr = dict(enable=False, base_batch_size=512)
