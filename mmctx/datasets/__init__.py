from .digit_scenes import Classification, Scenes, make_digit_scenes
from .stratified_subset import build_stratified_subset

__all__ = [
    'Classification',
    'Scenes',
    'build_stratified_subset',
    'make_digit_scenes',
]
