# Table 6 of the paper: the position encoding (CPE) alone.
_base_ = './coat-lite-tiny_8xb256-300e_in1k.py'

model = dict(backbone=dict(relative_position_encoding=False))
