# COCO as detectron2 trains 1x: 90,000 iterations of 16 images, short side
# chosen from 640, 672, ..., 800, no weight decay on norms.
_base_ = 'mmdet::common/ms-90k_coco.py'

custom_imports = dict(imports=['mmctx'], allow_failed_imports=False)
optim_wrapper = dict(paramwise_cfg=dict(norm_decay_mult=0.0))
