# Table 7 of the paper: direct attention across scales. No weights of this network were
# released: the backbone starts from a run of the classification config.
_base_ = './mask-rcnn_coat-tiny_fpn_amp-ms-crop-1x_coco.py'

model = dict(
    backbone=dict(
        co_scale='cross_attention',
        init_cfg=dict(
            checkpoint='work_dirs/coat-tiny-direct_8xb256-300e_in1k/epoch_300.pth'
        ),
    )
)
