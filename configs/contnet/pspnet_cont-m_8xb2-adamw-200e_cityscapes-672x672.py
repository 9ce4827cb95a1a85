# PSPNet on ConT-M (Table 7 of the paper), dilated to stride 8 as in PSPNet.
_base_ = [
    '../_base_/models/pspnet.py',
    '../_base_/datasets/cityscapes_672x672.py',
    '../_base_/schedules/cityscapes_bs16_adamw-poly_37k.py',
    '../_base_/runtime/mmseg.py',
]

model = dict(
    data_preprocessor=dict(size=(672, 672)),
    backbone=dict(
        type='ConTNet',
        arch='m',
        output_stride=8,
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        init_cfg=dict(
            type='Pretrained',
            checkpoint='mmctx://contnet_m',
            prefix='backbone.',
        ),
    ),
    decode_head=dict(in_channels=1024),
    auxiliary_head=dict(in_channels=512),
    test_cfg=dict(mode='slide', crop_size=(672, 672), stride=(448, 448)),
)
default_hooks = dict(checkpoint=dict(interval=3700))
