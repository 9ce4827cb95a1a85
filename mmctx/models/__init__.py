"""Networks and their layers; importing registers them."""

from .backbones import CoTNet, CoTNeXt, SECoTNetD
from .layers import CoTLayer, CoXtLayer

__all__ = ['CoTLayer', 'CoTNeXt', 'CoTNet', 'CoXtLayer', 'SECoTNetD']
