from .class_narrowing import StageRanks, draw_class_narrowing, rank_classes
from .contexts import context_layers, context_rows, feature_rows
from .curves import plot_curves, read_scalars
from .panels import Panel, draw_panels
from .recorder import Call, record, replay

__all__ = [
    'Call',
    'Panel',
    'StageRanks',
    'context_layers',
    'context_rows',
    'draw_class_narrowing',
    'draw_panels',
    'feature_rows',
    'plot_curves',
    'rank_classes',
    'read_scalars',
    'record',
    'replay',
]
