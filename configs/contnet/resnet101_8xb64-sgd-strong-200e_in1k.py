# ResNet-101, strong augmentation (baseline of Table 3 of the paper).
_base_ = './resnet50_8xb64-sgd-strong-200e_in1k.py'

model = dict(backbone=dict(depth=101))
