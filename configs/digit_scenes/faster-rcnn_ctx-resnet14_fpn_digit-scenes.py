# The score heads, which a detector does not train, are those of a run of
# ctx-resnet14_digit-scenes.py. Without them candidates are picked by
# chance: `--cfg-options model.backbone.init_cfg=None`.
_base_ = [
    '../_base_/models/digit_scenes_faster-rcnn_fpn.py',
    '../_base_/models/contextual_cnn/slim_backbone.py',
    '../_base_/datasets/digit_scenes_detection.py',
    '../_base_/schedules/digit_scenes_detection.py',
    '../_base_/runtime/digit_scenes_mmdet.py',
]

model = dict(
    backbone=dict(
        _base_.backbone,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/ctx-resnet14_digit-scenes/epoch_20.pth',
            prefix='backbone.',
        ),
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
