"""The backbones, one file per family."""

from .cotnet import CoTNet, CoTNeXt, SECoTNetD

__all__ = ['CoTNeXt', 'CoTNet', 'SECoTNetD']
