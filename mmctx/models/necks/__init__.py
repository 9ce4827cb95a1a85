"""Necks that the papers need and the hosts lack."""

from .pooled_dropout import PooledDropout

__all__ = ['PooledDropout']
