# Table 10 of the paper: rate 0.2, and 0.01 inside the encoders.
_base_ = './cont-m_8xb64-sgd-200e_in1k.py'

rules = _base_.optim_wrapper.paramwise_cfg.custom_keys
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={
            key: dict(rule, lr_mult=0.01 / 0.2) for key, rule in rules.items()
        }
    ),
)
