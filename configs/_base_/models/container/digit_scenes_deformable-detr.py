# Deformable DETR of the same size.
_base_ = 'digit_scenes_detr_focal.py'

deformable_attention = dict(
    embed_dims=128,
    num_heads=4,
    num_levels=1,
    dropout=0.0,
    batch_first=True,
)
model = dict(
    type='DeformableDETR',
    num_feature_levels=1,
    encoder=dict(
        layer_cfg=dict(
            self_attn_cfg=dict(_delete_=True, **deformable_attention)
        )
    ),
    decoder=dict(
        layer_cfg=dict(
            cross_attn_cfg=dict(_delete_=True, **deformable_attention)
        ),
        post_norm_cfg=None,
    ),
    positional_encoding=dict(offset=-0.5),
    bbox_head=dict(type='DeformableDETRHead'),
)
