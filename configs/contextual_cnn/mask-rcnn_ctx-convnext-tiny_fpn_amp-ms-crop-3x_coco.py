# Mask R-CNN on Contextual ConvNeXt-T (Table 3 of the paper). No weights were
# released: those of the classifier trained here.
_base_ = '../_base_/common/mask-rcnn_fpn_amp-ms-crop-decay0.95-3x_coco.py'

model = dict(
    backbone=dict(
        type='ContextualConvNeXt',
        arch='tiny',
        drop_path_rate=0.4,
        layer_scale_init_value=1.0,
        ignore_padding=True,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/ctx-convnext-tiny_32xb128-300e_in1k/epoch_300.pth',
            prefix='backbone.',
        ),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
# Class embeddings do not decay, as on ImageNet.
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={'contextualizing.embedding': dict(decay_mult=0.0)}
    )
)
