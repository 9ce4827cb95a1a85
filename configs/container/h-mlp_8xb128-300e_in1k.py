# MLP, a table over all pairs of pixels (Table 2 of the paper).
_base_ = './container-light_8xb128-300e_in1k.py'

model = dict(backbone=dict(arch='mlp'))
