# Container-PAM: DeiT-S with a static affinity beside its attention (Sec. 4.1
# of the paper). Class token and position code do not decay, as in DeiT.
_base_ = './container-light_8xb128-300e_in1k.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='PAMVisionTransformer',
        arch='deit-small',
        img_size=224,
        patch_size=16,
        drop_path_rate=0.1,
    ),
    neck=None,
    head=dict(type='VisionTransformerClsHead', in_channels=384),
    init_cfg=[
        dict(type='TruncNormal', layer='Linear', std=0.02),
        dict(type='Constant', layer='LayerNorm', val=1.0, bias=0.0),
    ],
)
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={
            '.cls_token': dict(decay_mult=0.0),
            '.pos_embed': dict(decay_mult=0.0),
        }
    )
)
