# Self-distillation without labels; validation classifies held-out digits by
# their nearest neighbours, before training and every fourth epoch.
#
# Small batches and few pictures ask for three departures from the paper: norms
# in the head, few prototypes and a sharper teacher.
_base_ = [
    '../_base_/models/dino.py',
    '../_base_/datasets/digit_scenes_two-views.py',
    '../_base_/schedules/digit_scenes_dino.py',
    '../_base_/runtime/digit_scenes_mmpretrain.py',
]

model = dict(
    backbone=dict(
        type='Container',
        arch=dict(
            embed_dims=(16, 32, 64, 128),
            depths=(1, 1, 2, 1),
            mlp_ratios=(4, 4, 4, 4),
            aggregation=dict(
                num_heads=(1, 1, 2, 4),
                dynamic=('none', 'none', 'none', 'attention'),
            ),
        ),
        out_indices=(3,),
    ),
    neck=dict(in_channels=128, norm_cfg=dict(type='BN')),
    head=dict(
        in_channels=128,
        hidden_channels=256,
        bottleneck_channels=64,
        num_prototypes=256,
        norm_cfg=dict(type='BN1d'),
    ),
    loss=dict(num_prototypes=256, teacher_temp=0.01),
    classifier=dict(num_classes=10),
)

custom_hooks = [
    *_base_.custom_hooks,
    dict(type='FrozenFirst', prefix='head.last_layer.', epochs=1),
    dict(type='FeatureBank', dataset=_base_.bank_dataset),
    dict(type='ValidateFirst'),
]
