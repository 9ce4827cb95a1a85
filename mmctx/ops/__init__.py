"""Operators, each usable alone."""

from .local_aggregation import local_aggregation

__all__ = ['local_aggregation']
