# Running average of weights and buffers, decay 0.99996, kept but not scored:
# validation and `tools/test.py` with the config use the raw weights. In a
# checkpoint the averaged weights are below `state_dict` and the raw ones below
# `ema_state_dict`, as MMEngine stores them.
custom_hooks = [
    dict(
        type='EMAHook',
        momentum=4e-5,
        update_buffers=True,
        evaluate_on_ema=False,
        evaluate_on_origin=True,
        priority='ABOVE_NORMAL',
    )
]
