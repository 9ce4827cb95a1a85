# ImageNet-1k as DeiT augments it: RandAugment (magnitude 9), random erasing,
# and each image drawn three times an epoch, on different GPUs where it can be.
_base_ = 'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py'

train_dataloader = dict(
    batch_size=256,
    sampler=dict(_delete_=True, type='RepeatAugSampler', num_repeats=3),
)
