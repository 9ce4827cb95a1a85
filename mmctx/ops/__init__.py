"""Operators, each usable alone."""

from .linear import linear
from .local_aggregation import local_aggregation

__all__ = ['linear', 'local_aggregation']
