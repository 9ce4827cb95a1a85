from mmengine.hooks import Hook

from mmctx.registry import HOOKS, register

__all__ = ['ValidateFirst']


@register(HOOKS)
class ValidateFirst(Hook):
    """Validates the network before its first training step, too."""

    priority = 'LOWEST'  # what other hooks prepare is there

    def before_train(self, runner) -> None:
        if runner.iter == 0 and runner.val_loop is not None:
            runner.val_loop.run()
