"""Losses that the papers need and the OpenMMLab libraries lack."""

from .dino_loss import DINOLoss
from .progressive_loss import ProgressiveLoss

__all__ = ['DINOLoss', 'ProgressiveLoss']
