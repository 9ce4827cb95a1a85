# ResNet-18, basic recipe (baseline of Table 2 of the paper).
_base_ = './resnet50_8xb64-sgd-200e_in1k.py'

model = dict(backbone=dict(depth=18), head=dict(in_channels=512))
