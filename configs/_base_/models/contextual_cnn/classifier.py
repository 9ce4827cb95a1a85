# ImageNet classifier that reads the class scores of the backbone. All stages
# have a loss, whose target is smoothed there. A config names the network.
_base_ = '../resnet50_classifier.py'

model = dict(
    backbone=dict(_delete_=True, out_indices=(3,), with_class_scores=True),
    neck=None,
    head=dict(
        _delete_=True,
        type='ContextualClsHead',
        num_classes=1000,
        topk=(1, 5),
        loss=dict(type='ProgressiveLoss', alpha=0.15, label_smooth=0.1),
    ),
)
