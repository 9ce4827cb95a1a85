# ResNet-50 as the backbone of DETR and its descendants: stem and first stage
# frozen, and the norms everywhere.
resnet50 = dict(
    type='ResNet',
    depth=50,
    frozen_stages=1,
    norm_cfg=dict(type='BN', requires_grad=False),
    norm_eval=True,
    init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50'),
)
