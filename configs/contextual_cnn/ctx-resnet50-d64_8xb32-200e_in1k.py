# Class embeddings of 64 dimensions (row c6 of Table 6 of the paper).
_base_ = './ctx-resnet50_8xb32-200e_in1k.py'

model = dict(backbone=dict(embedding_dims=64))
