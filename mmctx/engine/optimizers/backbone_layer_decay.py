"""Layer-wise learning-rate decay over a backbone."""

from collections.abc import Mapping
from typing import Optional

import torch.nn as nn
from mmengine.model import is_model_wrapper
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS

from mmctx.engine.checks import MisfitError
from mmctx.models.backbones.base import ContextBackbone
from mmctx.registry import register

__all__ = ['BackboneLayerDecay', 'check_layer_decay']

#: Constructors of mmdet and mmseg that know few networks.
STOCK_LAYER_DECAYS = (
    'LearningRateDecayOptimizerConstructor',
    'LayerDecayOptimizerConstructor',
)


@register(OPTIM_WRAPPER_CONSTRUCTORS)
class BackboneLayerDecay(DefaultOptimWrapperConstructor):
    """MMEngine's default constructor, with layer-wise rates in the backbone.

    The stem is layer 0, and every ``blocks_per_layer`` blocks after it form a
    layer. Neck and heads are the last layer, at the optimizer's rate; each
    earlier layer learns ``rate`` times as fast as the next.

    mmdet's counterpart knows the parameter names of two networks. This one
    calls ``backbone.get_layer_depth``, which all mmctx backbones have.

    Args:
        optim_wrapper_cfg (dict): See MMEngine's
            ``DefaultOptimWrapperConstructor``.
        paramwise_cfg (dict, optional): Options of MMEngine, such as
            ``norm_decay_mult``, and ``layer_decay``, a dict with ``rate``
            (float, between 0 and 1) and ``blocks_per_layer`` (int, 1 by
            default).

    Raises:
        ValueError: ``layer_decay`` is missing or invalid.
        TypeError: The model has no backbone with ``get_layer_depth``.

    Example:
        >>> optim_wrapper = dict(
        ...     optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.05),
        ...     constructor='BackboneLayerDecay',
        ...     paramwise_cfg=dict(
        ...         norm_decay_mult=0.0,
        ...         layer_decay=dict(rate=0.95, blocks_per_layer=3),
        ...     ),
        ... )
    """

    def __init__(
        self, optim_wrapper_cfg: dict, paramwise_cfg: Optional[dict] = None
    ) -> None:
        super().__init__(optim_wrapper_cfg, paramwise_cfg)
        layer_decay = self.paramwise_cfg.get('layer_decay')
        options = {'blocks_per_layer': 1, **(layer_decay or {})}
        if (
            {*options} != {'rate', 'blocks_per_layer'}
            or not 0 < options['rate'] <= 1
            or options['blocks_per_layer'] < 1
        ):
            raise ValueError(
                'BackboneLayerDecay needs paramwise_cfg=dict(layer_decay='
                'dict(rate=..., blocks_per_layer=1)), with a rate above 0 '
                f'and up to 1, and 1 block or more, got {layer_decay!r}.'
            )
        self.rate = options['rate']
        self.blocks_per_layer = options['blocks_per_layer']

    def add_params(
        self, params: list, module: nn.Module, prefix: str = '', **kwargs
    ) -> None:
        """Add one group per parameter, as MMEngine's, and scale its rate."""
        super().add_params(params, module, prefix=prefix, **kwargs)
        if prefix:
            return
        backbone = getattr(module, 'backbone', None)
        if not hasattr(backbone, 'get_layer_depth'):
            raise TypeError(
                f'BackboneLayerDecay: {type(module).__name__} has '
                f'{type(backbone).__name__} as its backbone, which has no '
                'get_layer_depth. Use a backbone of mmctx, or another '
                'constructor.'
            )
        names = {id(p): name for name, p in module.named_parameters()}
        for group in params:
            name = names[id(group['params'][0])]
            lr = group.get('lr', self.base_lr)
            group['lr'] = lr * self.rate ** self._layers_after(backbone, name)

    def _layers_after(self, backbone: nn.Module, name: str) -> int:
        """Number of layers after a parameter's own."""
        depth, count = backbone.get_layer_depth(name, 'backbone.')
        last = -(-(count - 2) // self.blocks_per_layer) + 1
        if depth == count - 1:
            return 0
        return last + -depth // self.blocks_per_layer


def check_layer_decay(optim_wrapper: Mapping, model: nn.Module) -> None:
    """Refuse constructors that would scale the rates of other names.

    Args:
        optim_wrapper (dict): Config of the optimizer's wrapper.
        model (nn.Module): What it will train.

    Raises:
        MisfitError: The model has a backbone of mmctx, and the constructor
            goes by the names in mmdet's ConvNeXt.
    """
    name = str(optim_wrapper.get('constructor')).rpartition('.')[2]
    model = model.module if is_model_wrapper(model) else model
    backbone = getattr(model, 'backbone', None)
    if name not in STOCK_LAYER_DECAYS or not isinstance(
        backbone, ContextBackbone
    ):
        return
    options = optim_wrapper.get('paramwise_cfg') or {}
    rate = options.get('decay_rate', options.get('layer_decay_rate', '...'))
    raise MisfitError(
        f'{name} goes by the names of parameters in other backbones, not in '
        f"{type(backbone).__name__}. Write constructor='BackboneLayerDecay', "
        'paramwise_cfg=dict(_delete_=True, norm_decay_mult=0.0, '
        f'bias_decay_mult=0.0, layer_decay=dict(rate={rate}, '
        'blocks_per_layer=3)).'
    )
