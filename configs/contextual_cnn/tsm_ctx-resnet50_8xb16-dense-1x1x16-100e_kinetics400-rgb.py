# TSM on Contextual ResNet-50 (Table 2 of the paper). It trains with mmaction2,
# which is not among the dependencies of mmctx: see the README. Embeddings and
# candidates are those of ImageNet, as in detectors.
_base_ = '../_base_/common/tsm_8xb16-dense-1x1x16-100e_kinetics400-rgb.py'

model = dict(
    backbone=dict(
        type='mmpretrain.TemporalShift',
        num_segments=_base_.num_segments,
        backbone=dict(
            type='ContextualResNet',
            depth=50,
            out_indices=(3,),
            init_cfg=dict(
                type='Pretrained',
                checkpoint='work_dirs/ctx-resnet50_8xb32-200e_in1k/epoch_200.pth',
                prefix='backbone.',
            ),
        ),
    )
)
