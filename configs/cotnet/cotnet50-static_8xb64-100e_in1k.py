# Table 5 of the paper: the static context alone leaves each block.
_base_ = './cotnet50_8xb64-100e_in1k.py'

model = dict(backbone=dict(context='static'))
