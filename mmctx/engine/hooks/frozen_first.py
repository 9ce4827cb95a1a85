from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper

from mmctx.registry import HOOKS, register

__all__ = ['FrozenFirst']


@register(HOOKS)
class FrozenFirst(Hook):
    """Freezes some parameters during the first epochs.

    Their gradients are computed, so that distributed training sees no unused
    parameters, and dropped before the optimizer step (after clipping), so
    neither moments nor weight decay affect them.

    Args:
        prefix (str): Prefix of the parameters' names, such as
            ``'head.last_layer.'``.
        epochs (int): Number of epochs. Defaults to 1.

    Raises:
        ValueError: No parameter has this prefix.
    """

    def __init__(self, prefix: str, epochs: int = 1) -> None:
        self.prefix = prefix
        self.epochs = epochs

    def before_train(self, runner) -> None:
        model = runner.model
        model = model.module if is_model_wrapper(model) else model
        frozen = [
            parameter
            for name, parameter in model.named_parameters()
            if name.startswith(self.prefix)
        ]
        if not frozen:
            raise ValueError(
                f'FrozenFirst: no parameter starts with {self.prefix!r}; the '
                f"model's parts are {[n for n, _ in model.named_children()]}."
            )

        def drop_gradients(*_) -> None:
            if runner.epoch < self.epochs:
                for parameter in frozen:
                    parameter.grad = None

        optimizer = runner.optim_wrapper.optimizer
        optimizer.register_step_pre_hook(drop_gradients)
