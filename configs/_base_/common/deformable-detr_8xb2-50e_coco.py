# The same with batches of 16 at the same rate.
_base_ = './deformable-detr_16xb2-50e_coco.py'

model = dict(backbone=dict(out_indices=(1, 2, 3)))

# 8 GPUs x 2 images
auto_scale_lr = dict(base_batch_size=16)
