# Three stages of strides 4, 8 and 8, not 16: smaller patches of the picture.
_base_ = './pspnet_contnet-slim_digit-scenes.py'

model = dict(backbone=dict(output_stride=8))
