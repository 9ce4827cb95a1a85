"""Classifiers that the papers need and mmpretrain lacks.

They are subclasses of mmpretrain's own, imported when a config asks for
them, so that ``import mmctx`` does without mmpretrain.
"""

from mmctx.registry import MODELS, register

__all__ = ['build_class_token_classifier']


@register(MODELS, 'ClassTokenClassifier')
def build_class_token_classifier(**kwargs):
    """A :class:`~.class_token_classifier.ClassTokenClassifier`.

    Raises:
        ImportError: mmpretrain is not installed.
    """
    from .class_token_classifier import ClassTokenClassifier

    return ClassTokenClassifier(**kwargs)
