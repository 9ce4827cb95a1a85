# Table 10 of the paper: rate 0.1, and 0.005 inside the encoders.
_base_ = './cont-m_8xb64-sgd-200e_in1k.py'

rules = _base_.optim_wrapper.paramwise_cfg.custom_keys
optim_wrapper = dict(
    optimizer=dict(lr=0.1),
    paramwise_cfg=dict(
        custom_keys={
            key: dict(rule, lr_mult=0.005 / 0.1) for key, rule in rules.items()
        }
    ),
)
