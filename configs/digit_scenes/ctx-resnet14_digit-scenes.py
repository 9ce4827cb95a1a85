_base_ = [
    '../_base_/models/contextual_cnn/classifier.py',
    '../_base_/models/contextual_cnn/slim_backbone.py',
    '../_base_/datasets/digit_scenes_classification.py',
    '../_base_/schedules/digit_scenes_classification.py',
    '../_base_/runtime/digit_scenes_mmpretrain.py',
]

# Digits a little larger, moved and turned: else the network learns the 3,000
# pictures by heart.
train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(
                type='RandomResizedCrop',
                scale=64,
                crop_ratio_range=(0.8, 1.0),
                aspect_ratio_range=(0.9, 1.1),
            ),
            dict(
                type='Rotate',
                magnitude_range=(0, 6),
                magnitude_std='inf',
                prob=1.0,
                pad_val=(128, 128, 128),
            ),
            dict(type='PackInputs'),
        ]
    )
)

model = dict(
    backbone=_base_.backbone,
    head=dict(num_classes=10, topk=(1,), loss=dict(label_smooth=0.0)),
)

# The rate suits kernels. Class embeddings and score heads, compared by their
# cosines alone, and the predictors, which start at zero and are added to
# kernels and positions, would turn everything at each step.
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={
            'contextualizing': dict(lr_mult=0.1),
            'predictor': dict(lr_mult=0.03),
        }
    )
)

train_cfg = dict(max_epochs=20, val_interval=5)
param_scheduler = [
    _base_.param_scheduler[0],
    dict(_base_.param_scheduler[1], T_max=20),
]
