# PSPNet with a light head on the maps of strides 4, 8 and 16, for pictures of
# 128 pixels and a CPU. Background, nine tenths of the pixels, counts less: a
# fifth where the third stage learns to tell digits, twice that in the head
# whose outlines are scored. A config names the backbone.
_base_ = 'pspnet.py'

head = dict(
    num_classes=11,
    norm_cfg=dict(type='BN'),
    align_corners=False,
    dropout_ratio=0,
)
model = dict(
    data_preprocessor=dict(size_divisor=32),
    backbone=dict(out_indices=(0, 1, 2)),
    decode_head=dict(
        in_channels=[64, 128, 256],
        in_index=(0, 1, 2),
        input_transform='resize_concat',
        channels=64,
        # mmseg cannot average over the weights of a map's classes.
        loss_decode=dict(
            avg_non_ignore=False, class_weight=[0.4] + [1.0] * 10
        ),
        **head,
    ),
    auxiliary_head=dict(
        in_channels=256,
        channels=128,
        loss_decode=dict(
            avg_non_ignore=False,
            class_weight=[0.2] + [1.0] * 10,
            loss_weight=1.0,
        ),
        **head,
    ),
)
