# TSM on ResNet-101 (baseline of Table 2 of the paper), for mmaction2.
_base_ = './tsm_r50_8xb16-dense-1x1x16-100e_kinetics400-rgb.py'

model = dict(backbone=dict(depth=101, pretrained='torchvision://resnet101'))
