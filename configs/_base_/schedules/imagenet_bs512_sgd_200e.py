# The same with SGD.
_base_ = './imagenet_bs512_adamw_200e.py'

optim_wrapper = dict(
    optimizer=dict(
        _delete_=True, type='SGD', lr=0.2, momentum=0.9, weight_decay=5e-5
    )
)
