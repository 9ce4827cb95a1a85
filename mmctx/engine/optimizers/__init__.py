from .backbone_layer_decay import BackboneLayerDecay

__all__ = ['BackboneLayerDecay']
