from .hooks import (
    CurvePlot,
    FeatureBank,
    FrozenFirst,
    PredictionGallery,
    PrepareDigitScenes,
    ValidateFirst,
)

__all__ = [
    'CurvePlot',
    'FeatureBank',
    'FrozenFirst',
    'PredictionGallery',
    'PrepareDigitScenes',
    'ValidateFirst',
]
