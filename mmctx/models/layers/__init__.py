"""The context operators as layers, each usable alone."""

from .context_aggregation import ContextAggregation
from .contextual_conv import ContextualConv2d
from .contextualizing import ContextualizingLayers
from .conv_attention import (
    ConvAttention,
    ConvPositionEncoding,
    ConvRelativePositionEncoding,
)
from .cot import CoTLayer, CoXtLayer
from .patch_encoder import PatchwiseTransformerEncoder

__all__ = [
    'CoTLayer',
    'CoXtLayer',
    'ContextAggregation',
    'ContextualConv2d',
    'ContextualizingLayers',
    'ConvAttention',
    'ConvPositionEncoding',
    'ConvRelativePositionEncoding',
    'PatchwiseTransformerEncoder',
]
