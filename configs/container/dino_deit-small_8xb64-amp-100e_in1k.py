# DINO pre-training of DeiT-S (baseline of Table 6 of the paper). Its class token
# is the vector of an image.
_base_ = './dino_container-light_8xb64-amp-100e_in1k.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='VisionTransformer',
        arch='deit-small',
        img_size=224,
        patch_size=16,
        out_type='cls_token',
        drop_path_rate=0.1,
        init_cfg=[
            dict(type='TruncNormal', layer='Linear', std=0.02),
            dict(type='Constant', layer='LayerNorm', val=1.0, bias=0.0),
        ],
    ),
    neck=None,
    head=dict(in_channels=384),
)
