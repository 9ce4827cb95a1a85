"""Hooks and optimizer constructors; importing registers them."""

from . import hooks, optimizers

__all__ = ['hooks', 'optimizers']
