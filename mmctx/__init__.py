"""mmctx: context-modelling backbones for OpenMMLab.

Importing the package registers its classes and does nothing else.
"""

from .version import __version__

__all__ = ['__version__']
