# PSPNet on ResNet-50 (baseline of Table 7 of the paper).
_base_ = [
    '../_base_/models/pspnet.py',
    '../_base_/datasets/cityscapes_713x713.py',
    '../_base_/schedules/cityscapes_bs16_sgd-poly_37k.py',
    '../_base_/runtime/mmseg.py',
]

model = dict(
    data_preprocessor=dict(size=(713, 713)),
    backbone=dict(
        type='ResNetV1c',
        depth=50,
        strides=(1, 2, 1, 1),
        dilations=(1, 1, 2, 4),
        contract_dilation=True,
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        init_cfg=dict(
            type='Pretrained', checkpoint='open-mmlab://resnet50_v1c'
        ),
    ),
    decode_head=dict(in_channels=2048),
    auxiliary_head=dict(in_channels=1024),
    test_cfg=dict(mode='slide', crop_size=(713, 713), stride=(476, 476)),
)
default_hooks = dict(checkpoint=dict(interval=3700))
