# Container, both affinities in every stage (Table 1 of the paper).
_base_ = './container-light_8xb128-300e_in1k.py'

model = dict(backbone=dict(arch='full'))
