"""Detectors that the papers use and mmdet lacks, built from mmdet's parts."""

from mmctx.registry import MODELS, lazy_getattr, register_lazily

register_lazily(MODELS, f'{__name__}.smca_detr', 'SMCADETR')

__getattr__ = lazy_getattr(__name__)
