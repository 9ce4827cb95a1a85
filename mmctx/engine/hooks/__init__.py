from .curve_plot import CurvePlot
from .prediction_gallery import PredictionGallery
from .prepare_digit_scenes import PrepareDigitScenes

__all__ = ['CurvePlot', 'PredictionGallery', 'PrepareDigitScenes']
