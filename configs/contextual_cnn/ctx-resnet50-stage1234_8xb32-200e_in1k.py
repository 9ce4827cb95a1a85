# All stages are contextual (row c5 of Table 6 of the paper). Stage 1 gets the
# merge of all classes, the same for every image.
_base_ = './ctx-resnet50_8xb32-200e_in1k.py'

model = dict(backbone=dict(contextual_stages=(0, 1, 2, 3)))
