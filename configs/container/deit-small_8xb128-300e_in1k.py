# DeiT-S (baseline of Tables 1 and 3 of the paper).
_base_ = './container-pam-deit-small_8xb128-300e_in1k.py'

model = dict(backbone=dict(type='VisionTransformer'))
