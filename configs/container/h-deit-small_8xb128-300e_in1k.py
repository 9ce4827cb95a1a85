# H-DeiT-S, attention in every stage (Table 2 of the paper).
_base_ = './container-light_8xb128-300e_in1k.py'

model = dict(backbone=dict(arch='h_deit_small'))
