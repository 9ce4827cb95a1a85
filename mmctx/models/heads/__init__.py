"""Heads that the papers need and the OpenMMLab libraries lack."""

from mmctx.registry import MODELS, lazy_getattr, register_lazily

from .dino_projection_head import DINOProjectionHead
from .nearest_neighbors_head import NearestNeighborsHead

__all__ = ['DINOProjectionHead', 'NearestNeighborsHead']

register_lazily(MODELS, f'{__name__}.coat_cls_head', 'CoaTClsHead')
register_lazily(MODELS, f'{__name__}.contextual_cls_head', 'ContextualClsHead')
register_lazily(
    MODELS,
    f'{__name__}.single_mask_cascade_roi_head',
    'SingleMaskCascadeRoIHead',
)

__getattr__ = lazy_getattr(__name__)
