# Deformable convolution v2 in the same places, without context (row a4 of
# Table 4 of the paper).
_base_ = './ctx-resnet50_8xb32-200e_in1k.py'

model = dict(backbone=dict(use_context=False, weight_offsets=False))
