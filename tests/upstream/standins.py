"""Stand-ins for what the wheels lack, so that the rest of them imports.

Configs name this module in ``custom_imports``, before mmctx:

- mmsegmentation 1.2.2 imports compiled operators of mmcv, which mmcv-lite
  lacks. Here each of them raises when it is called.
- mmaction2 1.2.0 imports ``localizers/drn``, a folder that its wheel lacks
  (https://github.com/open-mmlab/mmaction2/issues/2714).
"""

import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

OPERATORS = 'mmcv._ext'
DRN = 'mmaction.models.localizers.drn'


class StandIn(ModuleType):
    """A module of functions that raise when they are called."""

    def __init__(self, name):
        super().__init__(name)
        # mmengine looks for a loader and so knows that it is mmcv-lite.
        self.__spec__ = ModuleSpec(name, loader=None)

    def __getattr__(self, name):
        if name.startswith('__'):
            raise AttributeError(name)

        def refuse(*args, **kwargs):
            raise RuntimeError(f'{self.__name__}.{name} is not installed')

        return refuse


if find_spec(OPERATORS) is None:
    sys.modules[OPERATORS] = StandIn(OPERATORS)
for name in (DRN, f'{DRN}.drn'):
    sys.modules.setdefault(name, StandIn(name))
