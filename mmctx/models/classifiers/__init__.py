"""Classifiers that the papers need and mmpretrain lacks."""

from mmctx.registry import MODELS, register_lazily

register_lazily(
    MODELS, f'{__name__}.class_token_classifier', 'ClassTokenClassifier'
)
