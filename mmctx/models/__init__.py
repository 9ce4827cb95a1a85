"""Networks and their layers; importing registers them."""

from mmctx.registry import lazy_getattr

from . import detectors, heads, selfsup  # noqa: F401
from .backbones import (
    CoaT,
    Container,
    ContextualConvNeXt,
    ContextualResNet,
    ConTNet,
    CoTNet,
    CoTNeXt,
    SECoTNetD,
)
from .heads import DINOProjectionHead, NearestNeighborsHead
from .layers import (
    ContextAggregation,
    ContextualConv2d,
    ContextualizingLayers,
    ConvAttention,
    ConvPositionEncoding,
    ConvRelativePositionEncoding,
    CoTLayer,
    CoXtLayer,
    PatchwiseTransformerEncoder,
)
from .losses import DINOLoss, ProgressiveLoss
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
    'ContextualConv2d',
    'ContextualConvNeXt',
    'ContextualResNet',
    'ContextualizingLayers',
    'ConvAttention',
    'ConvPositionEncoding',
    'ConvRelativePositionEncoding',
    'DINOLoss',
    'DINOProjectionHead',
    'NearestNeighborsHead',
    'NormedPooling',
    'PatchwiseTransformerEncoder',
    'PooledDropout',
    'ProgressiveLoss',
    'SECoTNetD',
]

__getattr__ = lazy_getattr(__name__)
