"""Losses that the papers need and the hosts lack."""

from .dino_loss import DINOLoss

__all__ = ['DINOLoss']
