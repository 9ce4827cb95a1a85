"""The backbones, one file per family."""

from .coat import CoaT
from .contnet import ConTNet
from .cotnet import CoTNet, CoTNeXt, SECoTNetD

__all__ = ['CoTNeXt', 'CoTNet', 'CoaT', 'ConTNet', 'SECoTNetD']
