# Contextual convolutions driven by the features alone; only the last stage is
# scored (row a3 of Table 4 of the paper).
_base_ = './ctx-resnet50_8xb32-200e_in1k.py'

model = dict(backbone=dict(use_context=False, scored_stages=(3,)))
