# TSM on ResNet-50 (baseline of Table 2 of the paper), for mmaction2.
_base_ = '../_base_/common/tsm_8xb16-dense-1x1x16-100e_kinetics400-rgb.py'

model = dict(
    backbone=dict(
        type='ResNetTSM',
        depth=50,
        num_segments=_base_.num_segments,
        shift_div=8,
        norm_eval=False,
        pretrained='torchvision://resnet50',
    )
)
