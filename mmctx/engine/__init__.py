from .hooks import (
    CurvePlot,
    FeatureBank,
    FrozenFirst,
    PredictionGallery,
    PrepareDigitScenes,
    ValidateFirst,
)
from .optimizers import BackboneLayerDecay

__all__ = [
    'BackboneLayerDecay',
    'CurvePlot',
    'FeatureBank',
    'FrozenFirst',
    'PredictionGallery',
    'PrepareDigitScenes',
    'ValidateFirst',
]
