"""Hooks and optimizer constructors; importing registers them."""

from mmengine.registry import STRATEGIES

from mmctx.registry import register_lazily

from . import hooks, optimizers

__all__ = ['hooks', 'optimizers']

register_lazily(
    STRATEGIES, f'{__name__}.fully_sharded', 'FullyShardedStrategy'
)
