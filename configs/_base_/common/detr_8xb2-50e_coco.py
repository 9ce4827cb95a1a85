# DETR on the map of stride 32, 50 epochs with a drop at 40, where the stock
# config takes 150 and 100. A config names the backbone and the neck's input.
_base_ = 'mmdet::detr/detr_r50_8xb2-150e_coco.py'

custom_imports = dict(imports=['mmctx'], allow_failed_imports=False)
model = dict(backbone=dict(_delete_=True, out_indices=(3,)))
max_epochs = 50
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(_base_.param_scheduler[0], end=max_epochs, milestones=[40])
]

# 8 GPUs x 2 images
auto_scale_lr = dict(enable=False, base_batch_size=16)
