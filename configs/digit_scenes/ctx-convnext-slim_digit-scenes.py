_base_ = [
    '../_base_/models/contextual_cnn/classifier.py',
    '../_base_/models/contextual_cnn/digit_scenes_backbone.py',
    '../_base_/datasets/digit_scenes_classification.py',
    '../_base_/schedules/digit_scenes_classification.py',
    '../_base_/runtime/digit_scenes_mmpretrain.py',
]

model = dict(
    backbone=_base_.backbone,
    head=dict(num_classes=10, topk=(1,), loss=dict(label_smooth=0.0)),
)

# Cosines do not depend on lengths: what is that short at the start turns with
# every step of the full rate.
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys={'contextualizing': dict(lr_mult=0.1)})
)
