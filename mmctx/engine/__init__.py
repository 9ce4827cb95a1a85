from .hooks import CurvePlot, PredictionGallery, PrepareDigitScenes

__all__ = ['CurvePlot', 'PredictionGallery', 'PrepareDigitScenes']
