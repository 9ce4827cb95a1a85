# PSPNet with a light head on the maps of all four strides, for pictures of 128
# pixels and a CPU. A config names the backbone and the channels of its maps.
_base_ = 'pspnet.py'

model = dict(
    decode_head=dict(
        in_index=(0, 1, 2, 3),
        input_transform='resize_concat',
        channels=64,
        num_classes=11,
        norm_cfg=dict(type='BN'),
    ),
    auxiliary_head=None,
)
