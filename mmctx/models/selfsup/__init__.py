"""Self-supervised algorithms that the papers need and mmpretrain lacks."""

from mmctx.registry import MODELS, register_lazily

register_lazily(MODELS, f'{__name__}.dino', 'DINOSelfDistillation')
