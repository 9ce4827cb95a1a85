# Faster R-CNN with an FPN of 96 channels and light heads, for pictures of
# 128 pixels and a CPU. A config names the backbone and the FPN's input.
_base_ = 'faster-rcnn_r50_fpn.py'

model = dict(
    backbone=dict(_delete_=True),
    neck=dict(out_channels=96, num_outs=4, norm_cfg=dict(type='BN')),
    rpn_head=dict(
        in_channels=96,
        feat_channels=96,
        anchor_generator=dict(scales=[4], strides=[4, 8, 16, 32]),
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(
            roi_layer=dict(sampling_ratio=1), out_channels=96
        ),
        bbox_head=dict(
            in_channels=96,
            fc_out_channels=256,
            num_classes=10,
            reg_class_agnostic=True,
        ),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=128)),
        rpn_proposal=dict(nms_pre=256, max_per_img=128),
        rcnn=dict(sampler=dict(num=32, pos_fraction=0.5)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=256, max_per_img=64)),
)
