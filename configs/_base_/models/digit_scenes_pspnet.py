# PSPNet with a light head on a feature pyramid, for pictures of 128 pixels and
# a CPU. Background, nine tenths of the pixels, counts less than half. A config
# names the backbone and the channels of its maps.
_base_ = 'pspnet.py'

# mmseg cannot average over the weights of a map's classes.
loss = dict(avg_non_ignore=False, class_weight=[0.4] + [1.0] * 10)
head = dict(
    num_classes=11,
    norm_cfg=dict(type='BN'),
    align_corners=False,
    dropout_ratio=0,
)
model = dict(
    data_preprocessor=dict(size_divisor=32),
    neck=dict(type='FPN', out_channels=64, num_outs=4),
    decode_head=dict(
        in_channels=[64, 64, 64, 64],
        in_index=(0, 1, 2, 3),
        input_transform='resize_concat',
        channels=32,
        loss_decode=loss,
        **head,
    ),
    auxiliary_head=dict(
        in_channels=64,
        channels=64,
        loss_decode=dict(loss_weight=1.0, **loss),
        **head,
    ),
)
