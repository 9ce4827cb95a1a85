# Group Conv-3, 3 x 3 convolution in 8 groups (Table 2 of the paper).
_base_ = './container-light_8xb128-300e_in1k.py'

model = dict(backbone=dict(arch='group_conv3'))
