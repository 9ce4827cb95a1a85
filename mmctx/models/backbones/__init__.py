"""The backbones, one file per family."""

from .coat import CoaT
from .container import Container
from .cotnet import CoTNet, CoTNeXt, SECoTNetD

__all__ = ['CoTNeXt', 'CoTNet', 'CoaT', 'Container', 'SECoTNetD']
