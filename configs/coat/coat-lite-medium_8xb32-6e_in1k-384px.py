# CoaT-Lite Medium at 384 x 384, fine-tuned from the weights of 224 x 224
# (Tables 2 and 8 of the paper).
_base_ = [
    '../_base_/models/coat/classifier.py',
    '../_base_/datasets/imagenet_bs256_repeataug_384.py',
    '../_base_/schedules/imagenet_bs256_amp-adamw-clip5_6e.py',
    '../_base_/runtime/mmpretrain.py',
]

model = dict(
    backbone=dict(arch='lite_medium', drop_path_rate=0.2),
    head=dict(in_channels=512),
)
train_dataloader = dict(batch_size=32)
load_from = 'mmctx://coat_lite_medium'
