# The context as an extra input, no modulation (rows a2 and b1 of Tables 4, 5).
_base_ = './ctx-resnet50_8xb32-200e_in1k.py'

model = dict(backbone=dict(weight_offsets=False, sampling_offsets=False))
