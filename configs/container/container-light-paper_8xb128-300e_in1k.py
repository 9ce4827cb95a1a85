# Container-Light with the sizes that the paper counts (Table 1): MLPs of ratio 4
# in all stages.
_base_ = './container-light_8xb128-300e_in1k.py'

model = dict(backbone=dict(arch='light_paper'))
