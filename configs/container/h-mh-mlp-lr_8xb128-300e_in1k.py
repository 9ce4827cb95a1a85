# MH-MLP-LR, a table of low rank per head (Table 2 of the paper).
_base_ = './container-light_8xb128-300e_in1k.py'

model = dict(backbone=dict(arch='mh_mlp_lr'))
