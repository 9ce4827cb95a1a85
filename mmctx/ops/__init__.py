"""Operators, each usable alone."""

from .add_conv import add_conv
from .add_mlp import add_mlp
from .attention import attention
from .context_projection import context_projection
from .contextual_deform_conv import (
    contextual_deform_conv,
    modulated_deform_conv,
)
from .conv_norm import add_conv_norm, apply_conv_norm
from .dispatch import reference
from .dynamic_context import dynamic_context
from .local_aggregation import local_aggregation
from .norm_conv import norm_conv
from .pointwise import pointwise
from .windowed import windowed

__all__ = [
    'add_conv',
    'add_conv_norm',
    'add_mlp',
    'apply_conv_norm',
    'attention',
    'context_projection',
    'contextual_deform_conv',
    'dynamic_context',
    'local_aggregation',
    'modulated_deform_conv',
    'norm_conv',
    'pointwise',
    'reference',
    'windowed',
]
