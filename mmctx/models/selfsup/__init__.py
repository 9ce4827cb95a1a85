"""Self-supervised algorithms that the papers need and mmpretrain lacks."""

from mmctx.registry import MODELS, lazy_getattr, register_lazily

register_lazily(MODELS, f'{__name__}.dino', 'DINOSelfDistillation')

__getattr__ = lazy_getattr(__name__)
