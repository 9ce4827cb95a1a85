"""mmctx: context-modelling backbones for OpenMMLab.

Importing the package registers its classes and does nothing else.
"""

from . import engine  # noqa: F401
from .version import __version__

__all__ = ['__version__']
