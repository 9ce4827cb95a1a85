"""Detectors that the papers use and mmdet lacks.

They are built from mmdet's parts: what is registered here imports mmdet when
a config asks for it, so that ``import mmctx`` needs none.
"""

from mmctx.registry import MODELS, register

__all__ = ['build_smca_detr']


@register(MODELS, 'SMCADETR')
def build_smca_detr(**kwargs):
    """A :class:`~mmctx.models.detectors.smca_detr.SMCADETR`.

    Raises:
        ImportError: mmdet is not installed.
    """
    from .smca_detr import SMCADETR

    return SMCADETR(**kwargs)
