"""Networks and their layers; importing registers them."""

from . import detectors, heads  # noqa: F401
from .backbones import (
    CoaT,
    Container,
    ConTNet,
    CoTNet,
    CoTNeXt,
    SECoTNetD,
)
from .layers import (
    ContextAggregation,
    ConvAttention,
    ConvPositionEncoding,
    ConvRelativePositionEncoding,
    CoTLayer,
    CoXtLayer,
    PatchwiseTransformerEncoder,
)
from .necks import NormedPooling, PooledDropout

__all__ = [
    'CoTLayer',
    'CoTNeXt',
    'CoTNet',
    'CoXtLayer',
    'CoaT',
    'ConTNet',
    'Container',
    'ContextAggregation',
    'ConvAttention',
    'ConvPositionEncoding',
    'ConvRelativePositionEncoding',
    'NormedPooling',
    'PatchwiseTransformerEncoder',
    'PooledDropout',
    'SECoTNetD',
]
