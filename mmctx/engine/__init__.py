from .hooks import PrepareDigitScenes

__all__ = ['PrepareDigitScenes']
