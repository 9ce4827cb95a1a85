# Table 9 of the paper: patches of 7 x 7.
_base_ = './cont-m_8xb64-adamw-strong-200e_in1k.py'

model = dict(backbone=dict(patch_sizes=(7, 7)))
