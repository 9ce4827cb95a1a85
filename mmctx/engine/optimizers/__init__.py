"""Constructors and wrappers of optimizers."""

from .backbone_layer_decay import BackboneLayerDecay
from .bfloat16_optim_wrapper import BFloat16OptimWrapper

__all__ = ['BFloat16OptimWrapper', 'BackboneLayerDecay']
