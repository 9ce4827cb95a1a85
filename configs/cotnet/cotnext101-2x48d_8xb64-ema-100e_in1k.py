# CoTNeXt-101 (2x48d), default setup with averaged weights (Table 3).
_base_ = [
    './cotnext101-2x48d_8xb64-100e_in1k.py',
    '../_base_/hooks/ema_1e-4.py',
]
