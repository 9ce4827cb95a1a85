# Table 6 of the paper: CoT blocks in res5 alone.
_base_ = './cotnet50_8xb64-100e_in1k.py'

model = dict(backbone=dict(cot_stages=(3,)))
