# Table 5 of the paper: the dynamic context alone leaves each block.
_base_ = './cotnet50_8xb64-100e_in1k.py'

model = dict(backbone=dict(context='dynamic'))
