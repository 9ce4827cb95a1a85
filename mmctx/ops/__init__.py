"""Operators, each usable alone."""

from .add_mlp import add_mlp
from .attention import attention
from .contextual_deform_conv import contextual_deform_conv
from .dispatch import reference
from .local_aggregation import local_aggregation
from .norm_conv import norm_conv
from .windowed import windowed

__all__ = [
    'add_mlp',
    'attention',
    'contextual_deform_conv',
    'local_aggregation',
    'norm_conv',
    'reference',
    'windowed',
]
