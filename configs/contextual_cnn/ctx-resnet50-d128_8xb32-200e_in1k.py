# Class embeddings of 128 dimensions (row c7 of Table 6 of the paper).
_base_ = './ctx-resnet50_8xb32-200e_in1k.py'

model = dict(backbone=dict(embedding_dims=128))
