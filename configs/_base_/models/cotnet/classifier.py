# ImageNet classifier, default setup. A config names the backbone's type.
_base_ = '../resnet50_classifier.py'

model = dict(
    backbone=dict(_delete_=True, out_indices=(3,)),
    head=dict(
        # PyTorch's default initialisation, as in the released code
        init_cfg=None,
        loss=dict(
            _delete_=True,
            type='LabelSmoothLoss',
            label_smooth_val=0.1,
            mode='original',
        ),
    ),
)
