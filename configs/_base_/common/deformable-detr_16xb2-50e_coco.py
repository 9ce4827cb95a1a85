# Deformable DETR on four levels, 50 epochs of batches of 32. A config names
# the backbone and the neck's input.
_base_ = 'mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py'

custom_imports = dict(imports=['mmctx'], allow_failed_imports=False)
model = dict(backbone=dict(_delete_=True))

# 16 GPUs x 2 images
auto_scale_lr = dict(enable=False, base_batch_size=32)
