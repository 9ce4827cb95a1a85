# Table 6 of the paper, baseline: SE-CoTNetD-50 without any CoT block.
_base_ = './se-cotnetd50_8xb64-100e_in1k.py'

model = dict(backbone=dict(cot_stages=()))
