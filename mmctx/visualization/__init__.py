from .class_narrowing import StageRanks, draw_class_narrowing, rank_classes
from .curves import plot_curves, read_scalars

__all__ = [
    'StageRanks',
    'draw_class_narrowing',
    'plot_curves',
    'rank_classes',
    'read_scalars',
]
