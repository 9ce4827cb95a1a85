# AdamW as Contextual CNN trains: the rate rises from 1e-7 over 20 epochs, and
# falls to 1e-7. No weight decay on class embeddings, temperature, norms, biases
# and other one-dimensional parameters.
_base_ = './imagenet_bs1024_amp-adamw_300e.py'

optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={
            'contextualizing.embedding': dict(decay_mult=0.0),
            'contextualizing.log_scale': dict(decay_mult=0.0),
        }
    )
)
param_scheduler = [
    dict(_base_.param_scheduler[0], start_factor=1e-7 / 1e-3, end=21),
    dict(_base_.param_scheduler[1], eta_min=1e-7),
]

# 32 GPUs x 128 images
auto_scale_lr = dict(base_batch_size=4096)
