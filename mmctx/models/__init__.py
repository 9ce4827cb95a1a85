"""Networks and their layers; importing registers them."""

from . import heads  # noqa: F401
from .backbones import CoaT, Container, CoTNet, CoTNeXt, SECoTNetD
from .layers import (
    ContextAggregation,
    ConvAttention,
    ConvPositionEncoding,
    ConvRelativePositionEncoding,
    CoTLayer,
    CoXtLayer,
)
from .necks import NormedPooling, PooledDropout

__all__ = [
    'CoTLayer',
    'CoTNeXt',
    'CoTNet',
    'CoXtLayer',
    'CoaT',
    'Container',
    'ContextAggregation',
    'ConvAttention',
    'ConvPositionEncoding',
    'ConvRelativePositionEncoding',
    'NormedPooling',
    'PooledDropout',
    'SECoTNetD',
]
