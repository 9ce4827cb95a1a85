# Table 8 of the paper: a code per token of the patch.
_base_ = './cont-m_8xb64-adamw-strong-200e_in1k.py'

model = dict(backbone=dict(position='1d'))
