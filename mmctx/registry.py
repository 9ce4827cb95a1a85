"""Registration in MMEngine's root registries.

A name in a root registry resolves from every default scope (mmpretrain,
mmdet, mmseg), so ``type='CoTNet'`` needs no prefix in any config.
"""

from importlib import import_module
from typing import Any, Callable, Optional

from mmengine.registry import DATASETS, HOOKS, MODELS, Registry

__all__ = [
    'DATASETS',
    'HOOKS',
    'MODELS',
    'lazy_getattr',
    'register',
    'register_lazily',
]

#: Modules of the classes that are registered lazily.
_LAZY: dict[str, str] = {}


def _path(target: Any) -> str:
    module = getattr(target, '__module__', '')
    return f'{module}.{getattr(target, "__qualname__", "")}'


def register(registry: Registry, name: Optional[str] = None):
    """Class (or function) decorator that registers under a free name.

    What is defined anew, as by ``importlib.reload``, replaces itself.

    Args:
        registry (Registry): A root registry of MMEngine.
        name (str, optional): The name in configs. Defaults to that of the
            decorated class.

    Raises:
        RuntimeError: The name is already taken by another package.
    """

    def decorate(target):
        key = name or target.__name__
        owner = registry.module_dict.get(key)
        is_reloaded = _path(owner) == _path(target)
        if owner is not None and not is_reloaded:
            raise RuntimeError(
                f'mmctx cannot register {key!r} in the {registry.name!r} '
                f'registry: {_path(owner)} already has that name. '
                'Import mmctx without the other package, or rename its class; '
                'mmctx never replaces what another package registered.'
            )
        registry.register_module(name=key, module=target, force=is_reloaded)
        return target

    return decorate


def register_lazily(registry: Registry, module: str, name: str) -> None:
    """Register a class whose module is imported when a config asks for it.

    For subclasses of an OpenMMLab library's classes, as ``import mmctx`` needs
    none of these libraries. Without the library, building raises the import's
    ``ImportError``.

    Args:
        registry (Registry): A root registry of MMEngine.
        module (str): Full name of the module.
        name (str): Name of the class, there and in configs.

    Raises:
        RuntimeError: The name is already taken by another package.
    """

    def build(**kwargs):
        return getattr(import_module(module), name)(**kwargs)

    build.__module__, build.__qualname__ = module, name
    register(registry, name)(build)
    _LAZY[name] = module


def lazy_getattr(package: str) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package, for what is registered lazily in it.

    Args:
        package (str): Full name of the package.
    """

    def get(name: str) -> Any:
        module = _LAZY.get(name, '')
        if not module.startswith(f'{package}.'):
            raise AttributeError(
                f'module {package!r} has no attribute {name!r}'
            )
        return getattr(import_module(module), name)

    return get
