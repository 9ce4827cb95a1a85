# Fine-tuning as in the CoaT release, without a warm-up. Its lowest rate lies
# above its first, so the cosine rises, from 2.5e-6 (5e-6 x batch / 512) to
# 5e-6.
_base_ = './imagenet_bs1024_amp-adamw_300e.py'

optim_wrapper = dict(
    optimizer=dict(lr=2.5e-6, weight_decay=1e-8),
    clip_grad=dict(max_norm=5.0),
)
train_cfg = dict(max_epochs=6)
param_scheduler = [
    dict(_base_.param_scheduler[1], end=6, eta_min=5e-6),
]

# 8 GPUs x 32 images
auto_scale_lr = dict(base_batch_size=256)
