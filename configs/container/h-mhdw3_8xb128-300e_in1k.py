# MH-DW-3, a 3 x 3 kernel per head of 32 channels (Table 2 of the paper).
_base_ = './container-light_8xb128-300e_in1k.py'

model = dict(backbone=dict(arch='mh_dw3'))
