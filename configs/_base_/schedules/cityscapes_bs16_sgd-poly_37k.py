# SGD for 200 epochs of Cityscapes: 37,000 iterations of 16 crops, as the PyTorch
# code of PSPNet trains, ten times as fast in the heads.
train_cfg = dict(type='IterBasedTrainLoop', max_iters=37000, val_interval=3700)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=1e-4),
    paramwise_cfg=dict(
        custom_keys={
            'decode_head': dict(lr_mult=10.0),
            'auxiliary_head': dict(lr_mult=10.0),
        }
    ),
)
param_scheduler = [
    dict(type='PolyLR', power=0.9, eta_min=0, end=37000, by_epoch=False)
]

# 8 GPUs x 2 images
auto_scale_lr = dict(enable=False, base_batch_size=16)
