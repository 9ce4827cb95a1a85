# Conv-3, dense 3 x 3 convolution (Table 2 of the paper).
_base_ = './container-light_8xb128-300e_in1k.py'

model = dict(backbone=dict(arch='conv3'))
