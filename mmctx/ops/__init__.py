"""Operators, each usable alone."""

from .add_mlp import add_mlp
from .context_projection import context_projection
from .contextual_deform_conv import contextual_deform_conv
from .dispatch import reference
from .local_aggregation import local_aggregation

__all__ = [
    'add_mlp',
    'context_projection',
    'contextual_deform_conv',
    'local_aggregation',
    'reference',
]
