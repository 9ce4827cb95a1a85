# Stage 4 alone is contextual (row c2 of Table 6 of the paper).
_base_ = './ctx-resnet50_8xb32-200e_in1k.py'

model = dict(backbone=dict(contextual_stages=(3,)))
