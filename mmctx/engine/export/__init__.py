"""Models as files that run without mmctx."""

from .check import check_file
from .files import FORMATS, MIN_SIZE, read, require_onnx, save
from .networks import TASKS, Refusal, build

__all__ = [
    'FORMATS',
    'MIN_SIZE',
    'TASKS',
    'Refusal',
    'build',
    'check_file',
    'read',
    'require_onnx',
    'save',
]
