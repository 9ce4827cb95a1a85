# Weight offsets only (row b2 of Table 5 of the paper).
_base_ = './ctx-resnet50_8xb32-200e_in1k.py'

model = dict(backbone=dict(sampling_offsets=False))
