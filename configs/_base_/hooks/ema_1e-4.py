# Running average of weights and buffers, decay 0.9999. Validation scores the
# averaged weights, which choose the best checkpoint, and then the raw ones,
# which are logged as `accuracy/top1_origin`.
custom_hooks = [
    dict(
        type='EMAHook',
        momentum=1e-4,
        update_buffers=True,
        evaluate_on_origin=True,
        priority='ABOVE_NORMAL',
    )
]
