"""Registration in MMEngine's root registries.

A name in a root registry resolves from every default scope (mmpretrain,
mmdet, mmseg), so ``type='CoTNet'`` needs no prefix in any config.
"""

from typing import Optional

from mmengine.registry import DATASETS, HOOKS, MODELS, Registry

__all__ = ['DATASETS', 'HOOKS', 'MODELS', 'register']


def register(registry: Registry, name: Optional[str] = None):
    """Class (or function) decorator that registers under a free name.

    Args:
        registry (Registry): A root registry of MMEngine.
        name (str, optional): The name in configs. Defaults to the name of
            what is decorated.

    Raises:
        RuntimeError: The name is already taken by another package.
    """

    def decorate(target):
        key = name or target.__name__
        owner = registry.module_dict.get(key)
        if owner is not None:
            raise RuntimeError(
                f'mmctx cannot register {key!r} in the {registry.name!r} '
                f'registry: {owner.__module__}.{owner.__qualname__} already '
                'has that name. Import mmctx without the other package, or '
                'rename its class; mmctx never replaces what another package '
                'registered.'
            )
        registry.register_module(name=key, module=target)
        return target

    return decorate
