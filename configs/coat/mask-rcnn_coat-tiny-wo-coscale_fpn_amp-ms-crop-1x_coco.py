# Table 7 of the paper: no exchange across scales. No weights of this network were
# released: the backbone starts from a run of the classification config.
_base_ = './mask-rcnn_coat-tiny_fpn_amp-ms-crop-1x_coco.py'

model = dict(
    backbone=dict(
        co_scale='none',
        init_cfg=dict(
            checkpoint='work_dirs/coat-tiny-wo-coscale_8xb256-300e_in1k/epoch_300.pth'
        ),
    )
)
