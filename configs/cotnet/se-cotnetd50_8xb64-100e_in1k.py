# SE-CoTNetD-50, default setup (Table 3 of the paper).
_base_ = './cotnet50_8xb64-100e_in1k.py'

model = dict(backbone=dict(type='SECoTNetD'))
