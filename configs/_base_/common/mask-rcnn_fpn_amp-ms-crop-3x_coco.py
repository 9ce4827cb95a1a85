# Mask R-CNN, 36 epochs, multi-scale with a DETR-style crop, as Swin and CoaT
# train it. The rules of CoaT: one group of parameters with weight decay on all
# of them, 500 iterations of warm-up. A config names the backbone and the FPN's
# input.
_base_ = 'mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_amp-ms-crop-3x_coco.py'

custom_imports = dict(imports=['mmctx'], allow_failed_imports=False)
pretrained = None  # Swin's
model = dict(backbone=dict(_delete_=True))
optim_wrapper = dict(paramwise_cfg=None)
param_scheduler = [
    dict(_base_.param_scheduler[0], end=500),
    _base_.param_scheduler[1],
]
