from .digit_scenes import Classification, Scenes, make_digit_scenes

__all__ = ['Classification', 'Scenes', 'make_digit_scenes']
