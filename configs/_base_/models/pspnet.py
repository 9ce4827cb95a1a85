# PSPNet with an auxiliary head on the third stage. A config names the backbone
# and the channels of both heads' inputs. It is written out because `mmseg::`
# does not resolve in every supported version.
norm_cfg = dict(type='SyncBN', requires_grad=True)
head = dict(
    num_classes=19,
    dropout_ratio=0.1,
    norm_cfg=norm_cfg,
    align_corners=True,
)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
    ),
    decode_head=dict(
        type='PSPHead',
        in_index=3,
        channels=512,
        pool_scales=(1, 2, 3, 6),
        loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True),
        **head,
    ),
    auxiliary_head=dict(
        type='FCNHead',
        in_index=2,
        channels=256,
        num_convs=1,
        concat_input=False,
        loss_decode=dict(
            type='CrossEntropyLoss', avg_non_ignore=True, loss_weight=0.4
        ),
        **head,
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
