from mmengine.hooks import Hook

from mmctx.registry import HOOKS, register

__all__ = ['ValidateFirst']


@register(HOOKS)
class ValidateFirst(Hook):
    """Also validates the network before its first training step."""

    priority = 'LOWEST'  # after the hooks that prepare data

    def before_train(self, runner) -> None:
        if runner.iter == 0 and runner.val_loop is not None:
            runner.val_loop.run()
