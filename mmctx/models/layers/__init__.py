"""The context operators as layers, each usable alone."""

from .cot import CoTLayer, CoXtLayer

__all__ = ['CoTLayer', 'CoXtLayer']
