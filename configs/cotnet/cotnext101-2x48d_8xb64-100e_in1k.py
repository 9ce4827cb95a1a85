# CoTNeXt-101 (2x48d), default setup (Table 3 of the paper).
_base_ = './cotnet50_8xb64-100e_in1k.py'

model = dict(backbone=dict(type='CoTNeXt', depth=101))
