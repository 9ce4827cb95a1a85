"""Networks and their layers; importing registers them."""

from .backbones import CoTNet, CoTNeXt, SECoTNetD
from .layers import CoTLayer, CoXtLayer
from .necks import PooledDropout

__all__ = [
    'CoTLayer',
    'CoTNeXt',
    'CoTNet',
    'CoXtLayer',
    'PooledDropout',
    'SECoTNetD',
]
