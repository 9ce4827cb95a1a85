"""Operators, each usable alone."""

from .contextual_deform_conv import contextual_deform_conv
from .linear import linear
from .local_aggregation import local_aggregation

__all__ = ['contextual_deform_conv', 'linear', 'local_aggregation']
