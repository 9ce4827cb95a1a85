# AdamW for 200 epochs: the rate rises from 0 over ten of them and falls to 0
# along a cosine that steps every iteration.
_base_ = './imagenet_bs1024_amp-adamw_300e.py'

optim_wrapper = dict(type='OptimWrapper', optimizer=dict(lr=5e-4))
param_scheduler = [
    dict(_base_.param_scheduler[0], start_factor=1e-6, end=10),
    dict(
        _base_.param_scheduler[1],
        T_max=190,
        eta_min=0,
        begin=10,
        end=200,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(max_epochs=200)

# 8 GPUs x 64 images
auto_scale_lr = dict(base_batch_size=512)
