from .prepare_digit_scenes import PrepareDigitScenes

__all__ = ['PrepareDigitScenes']
