# Table 3 of the paper: a tenth of the training images of every class.
_base_ = './container-light_8xb128-300e_in1k-80pct.py'

train_dataloader = dict(dataset=dict(fraction=0.1))
