# ImageNet-1k as ConvNeXt augments it: RandAugment (magnitude 9) and random
# erasing.
_base_ = 'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py'

train_dataloader = dict(batch_size=128)
