# DeiT-S on a tenth of the training images (baseline of Table 3 of the paper).
_base_ = './deit-small_8xb128-300e_in1k-80pct.py'

train_dataloader = dict(dataset=dict(fraction=0.1))
