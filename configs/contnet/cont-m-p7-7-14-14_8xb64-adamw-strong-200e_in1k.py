# Table 9 of the paper: 7 x 7 in the first block of a stage, 14 x 14 in the
# second; 7 x 7 in all of the last stage, whose map is no larger.
_base_ = './cont-m_8xb64-adamw-strong-200e_in1k.py'

model = dict(backbone=dict(patch_sizes=((7, 7), (14, 14))))
