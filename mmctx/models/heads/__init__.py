"""Heads that the papers need and the hosts lack.

What is a subclass of a host's own imports its host when a model asks for it,
so that ``import mmctx`` needs none.
"""

from mmctx.registry import MODELS, register

from .dino_projection_head import DINOProjectionHead
from .nearest_neighbors_head import NearestNeighborsHead

__all__ = [
    'DINOProjectionHead',
    'NearestNeighborsHead',
    'build_coat_cls_head',
    'build_contextual_cls_head',
]


@register(MODELS, 'CoaTClsHead')
def build_coat_cls_head(**kwargs):
    """A :class:`~mmctx.models.heads.coat_cls_head.CoaTClsHead`.

    Raises:
        ImportError: mmpretrain is not installed.
    """
    from .coat_cls_head import CoaTClsHead

    return CoaTClsHead(**kwargs)


@register(MODELS, 'ContextualClsHead')
def build_contextual_cls_head(**kwargs):
    """A :class:`~.contextual_cls_head.ContextualClsHead`.

    Raises:
        ImportError: mmpretrain is not installed.
    """
    from .contextual_cls_head import ContextualClsHead

    return ContextualClsHead(**kwargs)
