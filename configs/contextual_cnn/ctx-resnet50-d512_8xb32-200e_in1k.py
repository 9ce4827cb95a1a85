# Class embeddings of 512 dimensions (row c8 of Table 6 of the paper).
_base_ = './ctx-resnet50_8xb32-200e_in1k.py'

model = dict(backbone=dict(embedding_dims=512))
