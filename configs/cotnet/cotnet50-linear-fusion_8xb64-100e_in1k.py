# Table 5 of the paper: the sum of the two contexts leaves each block.
_base_ = './cotnet50_8xb64-100e_in1k.py'

model = dict(backbone=dict(context='linear'))
