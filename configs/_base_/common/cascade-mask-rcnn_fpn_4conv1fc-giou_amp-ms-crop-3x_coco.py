# Cascade Mask R-CNN, 36 epochs, multi-scale with a DETR-style crop; box heads
# of four convolutions with SyncBN and one linear layer, GIoU loss. The rules
# of CoaT: one group of parameters with weight decay on all of them, 500
# iterations of warm-up. A config names the backbone and the FPN's input.
_base_ = 'mmdet::convnext/cascade-mask-rcnn_convnext-t-p4-w7_fpn_4conv1fc-giou_amp-ms-crop-3x_coco.py'

custom_imports = dict(imports=['mmctx'], allow_failed_imports=False)
checkpoint_file = None  # ConvNeXt's
model = dict(backbone=dict(_delete_=True))
optim_wrapper = dict(
    constructor='DefaultOptimWrapperConstructor',
    paramwise_cfg=None,
    optimizer=dict(lr=1e-4),
)
param_scheduler = [
    dict(_base_.param_scheduler[0], end=500),
    _base_.param_scheduler[1],
]
