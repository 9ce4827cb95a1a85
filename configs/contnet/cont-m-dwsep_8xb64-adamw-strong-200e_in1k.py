# Table 11 of the paper: depthwise separable convolutions in the blocks.
_base_ = './cont-m_8xb64-adamw-strong-200e_in1k.py'

model = dict(backbone=dict(separable=True))
