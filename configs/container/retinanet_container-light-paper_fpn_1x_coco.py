# Table 4 of the paper with the sizes that it counts. No weights of this network
# were released: the backbone starts from a run of the classification config.
_base_ = './retinanet_container-light_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        arch='light_paper',
        init_cfg=dict(
            checkpoint='work_dirs/container-light-paper_8xb128-300e_in1k/epoch_300.pth'
        ),
    )
)
