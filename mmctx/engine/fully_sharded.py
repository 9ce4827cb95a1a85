"""FSDP2 under MMEngine's FlexibleRunner, whose own strategy is FSDP1."""

import os
from typing import Any

from mmengine._strategy import DDPStrategy
from mmengine.device import get_device
from mmengine.dist import get_world_size, is_main_process
from mmengine.utils import apply_to
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, distribute_tensor

__all__ = ['FullyShardedStrategy']


class FullyShardedStrategy(DDPStrategy):
    """Processes share weights, gradients and the optimizer's moments.

    Each keeps its share, and gathers a stage of the backbone when that runs
    (``torch.distributed.fsdp.fully_shard``). Checkpoints are whole, as those
    of other runs, which can go on from them, and the other way round. In a
    config::

        runner_type = 'FlexibleRunner'
        strategy = dict(type='FullyShardedStrategy')

    Args:
        **kwargs: Arguments of ``mmengine._strategy.DDPStrategy``.

    Raises:
        ImportError: torch is older than 2.6.
    """

    def _wrap_model(self, model: nn.Module) -> nn.Module:
        from torch.distributed.fsdp import fully_shard

        model = self.convert_model(model.to(get_device()))
        mesh = init_device_mesh(get_device(), (get_world_size(),))
        for stage in getattr(model.backbone, 'stages', ()):
            fully_shard(stage, mesh=mesh)
        return fully_shard(model, mesh=mesh)

    def save_checkpoint(self, filename: str, **kwargs: Any) -> None:
        """Gather the shares in all processes, and save in the first."""
        self._model_state = _whole(self.model.state_dict())
        self._optim_state = _whole(self.optim_wrapper.state_dict())
        # FlexibleRunner knows no file backend.
        unfinished = f'{filename}.unfinished'
        super().save_checkpoint(unfinished, **kwargs)
        if is_main_process():
            os.replace(unfinished, filename)
        del self._model_state, self._optim_state

    def model_state_dict(self) -> dict:
        return self._model_state

    def optim_state_dict(self) -> dict:
        return self._optim_state

    def load_model_state_dict(self, state_dict: dict, **kwargs: Any) -> None:
        own = self.model.state_dict()
        shares = {
            key: _share(value, own.get(key))
            for key, value in state_dict.items()
        }
        super().load_model_state_dict(shares, **kwargs)

    def load_optim_state_dict(self, state_dict: dict) -> None:
        groups = self.optim_wrapper.param_groups
        weights = [weight for group in groups for weight in group['params']]
        state = {
            index: {
                key: _share(value, weights[index])
                for key, value in moments.items()
            }
            for index, moments in state_dict['state'].items()
        }
        super().load_optim_state_dict({**state_dict, 'state': state})


def _whole(state: Any) -> Any:
    """The tensors behind shares, in main memory."""
    return apply_to(
        state,
        lambda value: isinstance(value, Tensor),
        lambda value: (
            value.full_tensor() if isinstance(value, DTensor) else value
        ).cpu(),
    )


def _share(value: Any, like: Any) -> Any:
    """The share of a tensor that this process has of another."""
    if not isinstance(like, DTensor) or value.shape != like.shape:
        return value
    value = value.to(like.device)
    return distribute_tensor(value, like.device_mesh, like.placements)
