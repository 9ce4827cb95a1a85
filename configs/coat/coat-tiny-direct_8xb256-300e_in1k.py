# Table 7 of the paper: direct attention across scales.
_base_ = './coat-tiny_8xb256-300e_in1k.py'

model = dict(backbone=dict(co_scale='cross_attention'))
