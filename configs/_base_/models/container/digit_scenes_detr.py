# DETR on a slim Container-Light, for pictures of 128 pixels and a CPU: 2
# encoder and 3 decoder layers of 128 channels and 40 queries. It reads the map
# of stride 16, on which a digit is 2 to 4 cells wide; so the stage of stride
# 16, the last that is built, is the one with attention. Written out, as no
# stock file holds the model alone.
_base_ = 'slim_backbone.py'

attention = dict(embed_dims=128, num_heads=4, dropout=0.0, batch_first=True)
ffn = dict(
    embed_dims=128,
    feedforward_channels=256,
    num_fcs=2,
    ffn_drop=0.0,
    act_cfg=dict(type='ReLU', inplace=True),
)
model = dict(
    type='DETR',
    num_queries=40,
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=1,
    ),
    backbone=dict(_base_.backbone, out_indices=(2,)),
    neck=dict(
        type='ChannelMapper',
        in_channels=[192],
        kernel_size=1,
        out_channels=128,
        act_cfg=None,
        norm_cfg=dict(type='GN', num_groups=32),
        num_outs=1,
    ),
    encoder=dict(
        num_layers=2, layer_cfg=dict(self_attn_cfg=attention, ffn_cfg=ffn)
    ),
    decoder=dict(
        num_layers=3,
        layer_cfg=dict(
            self_attn_cfg=attention, cross_attn_cfg=attention, ffn_cfg=ffn
        ),
        return_intermediate=True,
    ),
    positional_encoding=dict(num_feats=64, normalize=True),
    bbox_head=dict(
        type='DETRHead',
        num_classes=10,
        embed_dims=128,
        loss_cls=dict(
            type='CrossEntropyLoss',
            bg_cls_weight=0.1,
            use_sigmoid=False,
            loss_weight=1.0,
            class_weight=1.0,
        ),
        loss_bbox=dict(type='L1Loss', loss_weight=5.0),
        loss_iou=dict(type='GIoULoss', loss_weight=2.0),
    ),
    train_cfg=dict(
        assigner=dict(
            type='HungarianAssigner',
            match_costs=[
                dict(type='ClassificationCost', weight=1.0),
                dict(type='BBoxL1Cost', weight=5.0, box_format='xywh'),
                dict(type='IoUCost', iou_mode='giou', weight=2.0),
            ],
        )
    ),
    test_cfg=dict(max_per_img=40),
)
