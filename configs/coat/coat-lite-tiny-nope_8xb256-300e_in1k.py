# Table 6 of the paper: no position encoding at all.
_base_ = './coat-lite-tiny_8xb256-300e_in1k.py'

model = dict(
    backbone=dict(position_encoding=False, relative_position_encoding=False)
)
