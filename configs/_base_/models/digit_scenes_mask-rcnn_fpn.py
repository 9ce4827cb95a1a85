# Mask R-CNN with an FPN of 96 channels and light heads, for pictures of
# 128 pixels and a CPU. A config names the backbone and the FPN's input.
_base_ = 'digit_scenes_faster-rcnn_fpn.py'

model = dict(
    type='MaskRCNN',
    data_preprocessor=dict(pad_mask=True),
    roi_head=dict(
        mask_roi_extractor=dict(
            _base_.model.roi_head.bbox_roi_extractor,
            roi_layer=dict(type='RoIAlign', output_size=14, sampling_ratio=1),
        ),
        mask_head=dict(
            type='FCNMaskHead',
            num_convs=2,
            in_channels=96,
            conv_out_channels=64,
            num_classes=10,
            loss_mask=dict(type='CrossEntropyLoss', use_mask=True),
        ),
    ),
    train_cfg=dict(rcnn=dict(mask_size=28)),
    test_cfg=dict(rcnn=dict(mask_thr_binary=0.5)),
)
