"""Networks and their layers; importing registers them."""

from . import heads  # noqa: F401
from .backbones import CoaT, ConTNet, CoTNet, CoTNeXt, SECoTNetD
from .layers import (
    ConvAttention,
    ConvPositionEncoding,
    ConvRelativePositionEncoding,
    CoTLayer,
    CoXtLayer,
    PatchwiseTransformerEncoder,
)
from .necks import PooledDropout

__all__ = [
    'CoTLayer',
    'CoTNeXt',
    'CoTNet',
    'CoXtLayer',
    'CoaT',
    'ConTNet',
    'ConvAttention',
    'ConvPositionEncoding',
    'ConvRelativePositionEncoding',
    'PatchwiseTransformerEncoder',
    'PooledDropout',
    'SECoTNetD',
]
