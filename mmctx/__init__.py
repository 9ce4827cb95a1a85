"""mmctx: context-modelling backbones for OpenMMLab.

Importing the package registers its classes and does nothing else.
"""

from .compatibility import check_dependencies

check_dependencies()

from . import checkpoints, datasets, engine  # noqa: E402, F401
from .engine.inference import Inferencer  # noqa: E402
from .experiments import (  # noqa: E402
    config_path,
    get_config,
    list_configs,
    register_config_scope,
    register_model_index,
)
from .models import *  # noqa: E402, F403
from .models import __all__ as _models  # noqa: E402
from .version import __version__  # noqa: E402
from .zoo import get_backbone, get_model, list_models  # noqa: E402

register_config_scope()

__all__ = [
    'Inferencer',
    '__version__',
    'config_path',
    'get_backbone',
    'get_config',
    'get_model',
    'list_configs',
    'list_models',
    'register_model_index',
    *_models,
]
