"""Losses that the papers need and the hosts lack."""

from .progressive_loss import ProgressiveLoss

__all__ = ['ProgressiveLoss']
