"""Networks and their layers; importing registers them."""

from . import heads  # noqa: F401
from .backbones import CoaT, CoTNet, CoTNeXt, SECoTNetD
from .layers import (
    ConvAttention,
    ConvPositionEncoding,
    ConvRelativePositionEncoding,
    CoTLayer,
    CoXtLayer,
)
from .necks import PooledDropout

__all__ = [
    'CoTLayer',
    'CoTNeXt',
    'CoTNet',
    'CoXtLayer',
    'CoaT',
    'ConvAttention',
    'ConvPositionEncoding',
    'ConvRelativePositionEncoding',
    'PooledDropout',
    'SECoTNetD',
]
