"""Released weights: where they are, safe loading, conversion to our names."""

from .convert import convert_state_dict, recognise
from .init import load_backbone, load_checkpoint
from .loading import CheckpointError, cache_dir, fetch, load_file, unwrap
from .released import RELEASED

__all__ = [
    'RELEASED',
    'CheckpointError',
    'cache_dir',
    'convert_state_dict',
    'fetch',
    'load_backbone',
    'load_checkpoint',
    'load_file',
    'recognise',
    'unwrap',
]
