"""A family that is not part of mmctx, written as CONTRIBUTING.md says.

Everything that a family brings is here once: the network, its key map and a
tiny instance. It inherits the contracts of all backbones from the tests.
"""

from collections.abc import Callable, Collection
from typing import Any, Union

import torch.nn as nn
from mmcv.cnn import build_norm_layer
from mmengine.registry import MODELS
from torch import Tensor

from mmctx.models.backbones.base import (
    ContextBackbone,
    Stage,
    drop_path_rates,
)
from mmctx.models.layers.stochastic_depth import StochasticDepth
from mmctx.registry import register
from mmctx.weights.keys import renamer

#: Arguments of an instance that is small enough for tests.
TINY = dict(arch='tiny')

_RULES = [
    (r'^features\.stem\.', 'backbone.stem.'),
    (r'^features\.(\d)\.(\d+)\.', r'backbone.stages.\1.\2.'),
    (r'^classifier\.', 'head.fc.'),
]


def key_map(keys: Collection[str]) -> Callable[[str], str]:
    """Released keys to ours, see :mod:`mmctx.weights.keys`."""
    return renamer(_RULES)


class SixthBlock(nn.Module):
    """A convolution and its norm, residual.

    Args:
        in_channels (int): Channels of the input.
        channels (int): Channels C of the output.
        stride (int): 1 or 2.
        dilation (int): Dilation of the convolution.
        norm_cfg (dict): A norm of feature maps.
        drop_path (float): Probability of dropping the branch of an image.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        stride: int,
        dilation: int,
        norm_cfg: dict,
        drop_path: float,
    ) -> None:
        super().__init__()
        self.shortcut = nn.Conv2d(in_channels, channels, 1, stride)
        self.conv = nn.Conv2d(
            in_channels, channels, 3, stride, dilation, dilation
        )
        self.norm = build_norm_layer(norm_cfg, channels)[1]
        self.drop_path = StochasticDepth(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) to (N, C, ceil(H / stride), ceil(W / stride))."""
        branch, keep = self.norm(self.conv(x)), self.drop_path(x)
        return self.shortcut(x) + (branch if keep is None else branch * keep)


@register(MODELS)
class SixthNet(ContextBackbone):
    """Convolutions, for lack of context.

    Args:
        arch (str or dict): 'tiny', or a dict with ``depths`` and
            ``channels``, a value per stage in each. Defaults to 'tiny'.
        drop_path_rate (float): Stochastic depth of the last block; it grows
            linearly from 0 at the first. Defaults to 0.
        **kwargs: See :class:`ContextBackbone`.
    """

    key_map = staticmethod(key_map)
    arch_settings = {
        'tiny': dict(depths=(1, 2, 1, 1), channels=(8, 16, 24, 32)),
    }

    def __init__(
        self,
        arch: Union[str, dict] = 'tiny',
        drop_path_rate: float = 0.0,
        **kwargs: Any,
    ) -> None:
        arch = self._resolve_arch(arch, ('depths', 'channels'))
        super().__init__(arch['channels'], **kwargs)
        channels = arch['channels'][0]
        self.stem = nn.Sequential(
            nn.Conv2d(self.in_channels, channels, 3, 2, padding=1),
            nn.MaxPool2d(3, 2, padding=1),
        )
        rates = drop_path_rates(drop_path_rate, arch['depths'])
        for i in range(self.num_stages):
            blocks = []
            for j, rate in enumerate(rates[i]):
                geometry = 1, self.dilations[i]
                if i > 0 and j == 0:
                    geometry = self._entry(i)
                blocks.append(
                    SixthBlock(
                        channels,
                        arch['channels'][i],
                        *geometry,
                        self.norm_cfg,
                        rate,
                    )
                )
                channels = arch['channels'][i]
            self.stages.append(Stage(*blocks, with_cp=self.with_cp))
        self._finish_init()
