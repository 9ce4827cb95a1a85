# The same for 200 epochs in steps of an iteration: from 0 over ten epochs, and
# back to 0.
_base_ = './timm_cosine_300e.py'

train_cfg = dict(max_epochs=200)
param_scheduler = [
    dict(
        _base_.param_scheduler[0],
        start_factor=1e-6,
        end=10,
        convert_to_iter_based=True,
    ),
    dict(
        _base_.param_scheduler[1],
        end=200,
        eta_min=0,
        convert_to_iter_based=True,
    ),
]
