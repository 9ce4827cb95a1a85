# SMCA-DETR of the same size.
_base_ = 'digit_scenes_detr_focal.py'

model = dict(
    type='SMCADETR',
    stride=16,
    decoder=dict(smoothness=8.0),
    bbox_head=dict(type='ConditionalDETRHead'),
)
