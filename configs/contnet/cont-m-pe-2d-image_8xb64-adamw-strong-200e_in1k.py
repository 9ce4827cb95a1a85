# Table 8 of the paper: codes of the rows and columns of the whole map.
_base_ = './cont-m_8xb64-adamw-strong-200e_in1k.py'

model = dict(backbone=dict(position='2d_image'))
