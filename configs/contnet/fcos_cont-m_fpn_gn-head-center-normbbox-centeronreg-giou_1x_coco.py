# FCOS with the improved head on ConT-M (released results, not in the paper).
# The head's settings are those of mmdet's config of this name.
_base_ = './fcos_cont-m_fpn_gn-head_1x_coco.py'

model = dict(
    bbox_head=dict(
        norm_on_bbox=True,
        centerness_on_reg=True,
        center_sampling=True,
        conv_bias=True,
        loss_bbox=dict(type='GIoULoss'),
    ),
    test_cfg=dict(nms=dict(iou_threshold=0.6)),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1 / 3, by_epoch=False, end=500),
    _base_.param_scheduler[1],
]
optim_wrapper = dict(clip_grad=None)
