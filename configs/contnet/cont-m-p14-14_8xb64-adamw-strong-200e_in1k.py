# Table 9 of the paper: patches of 14 x 14; the last map is 7 x 7, and so are
# the patches there.
_base_ = './cont-m_8xb64-adamw-strong-200e_in1k.py'

model = dict(backbone=dict(patch_sizes=(14, 14)))
