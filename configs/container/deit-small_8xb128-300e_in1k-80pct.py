# DeiT-S on four fifths of the training images (baseline of Table 3 of the
# paper).
_base_ = './deit-small_8xb128-300e_in1k.py'

train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='StratifiedSubset',
        fraction=0.8,
        dataset=_base_.train_dataloader.dataset,
    )
)
