"""Necks that the papers need and the OpenMMLab libraries lack."""

from .normed_pooling import NormedPooling
from .pooled_dropout import PooledDropout

__all__ = ['NormedPooling', 'PooledDropout']
