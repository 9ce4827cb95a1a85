# The same with mixup or CutMix on every batch, as released. The paper names
# mixup alone: `--cfg-options model.train_cfg.probs=[1,0]`.
_base_ = './classifier.py'

model = dict(
    train_cfg=dict(
        augments=[
            dict(type='Mixup', alpha=0.8),
            dict(type='CutMix', alpha=1.0),
        ]
    ),
)
