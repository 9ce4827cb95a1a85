_base_ = 'faster-rcnn_r18_fpn_digit-scenes.py'

model = dict(
    backbone=dict(type='ResNet', depth=50, base_channels=16, stem_channels=32),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
