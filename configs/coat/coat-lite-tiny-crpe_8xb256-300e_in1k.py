# Table 6 of the paper: the relative position encoding (CRPE) alone.
_base_ = './coat-lite-tiny_8xb256-300e_in1k.py'

model = dict(backbone=dict(position_encoding=False))
