from .curve_plot import CurvePlot
from .feature_bank import FeatureBank
from .frozen_first import FrozenFirst
from .prediction_gallery import PredictionGallery
from .prepare_digit_scenes import PrepareDigitScenes
from .resumable_checkpoint import ResumableCheckpoint
from .validate_first import ValidateFirst

__all__ = [
    'CurvePlot',
    'FeatureBank',
    'FrozenFirst',
    'PredictionGallery',
    'PrepareDigitScenes',
    'ResumableCheckpoint',
    'ValidateFirst',
]
