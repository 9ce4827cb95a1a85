# Table 6 of the paper, baseline: SE-ResNetD-50, of the size that the release
# calls ResNet-RS-50.
_base_ = './cotnet50_8xb64-100e_in1k.py'

model = dict(
    backbone=dict(_delete_=True, type='TIMMBackbone', model_name='resnetrs50')
)
