_base_ = [
    '../_base_/models/resnet50_classifier.py',
    '../_base_/datasets/digit_scenes_classification.py',
    '../_base_/schedules/digit_scenes_classification.py',
    '../_base_/runtime/digit_scenes_mmpretrain.py',
]

model = dict(
    backbone=dict(
        _delete_=True,
        type='CoTNet',
        depth=14,
        base_channels=16,
        stem_channels=16,
        out_indices=(3,),
    ),
    head=dict(num_classes=10, in_channels=512, topk=(1,)),
)
