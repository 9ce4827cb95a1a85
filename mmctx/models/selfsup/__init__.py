"""Self-supervised algorithms that the papers need and mmpretrain lacks.

They are subclasses of mmpretrain's own, imported when a config asks for
them, so that ``import mmctx`` does without mmpretrain.
"""

from mmctx.registry import MODELS, register

__all__ = ['build_dino_self_distillation']


@register(MODELS, 'DINOSelfDistillation')
def build_dino_self_distillation(**kwargs):
    """A :class:`~mmctx.models.selfsup.dino.DINOSelfDistillation`.

    Raises:
        ImportError: mmpretrain is not installed.
    """
    from .dino import DINOSelfDistillation

    return DINOSelfDistillation(**kwargs)
