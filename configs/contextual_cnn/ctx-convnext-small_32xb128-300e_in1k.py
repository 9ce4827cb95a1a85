# Contextual ConvNeXt-S (Table 1 of the paper).
_base_ = './ctx-convnext-tiny_32xb128-300e_in1k.py'

model = dict(backbone=dict(arch='small', drop_path_rate=0.4))
