# PSPNet with a light head on the maps of all four strides, for pictures of 128
# pixels and a CPU. A config names the backbone and the channels of its maps.
_base_ = 'pspnet.py'

model = dict(
    data_preprocessor=dict(size_divisor=32),
    decode_head=dict(
        in_index=(0, 1, 2, 3),
        input_transform='resize_concat',
        channels=32,
        num_classes=11,
        norm_cfg=dict(type='BN'),
        align_corners=False,
    ),
    auxiliary_head=None,
)
