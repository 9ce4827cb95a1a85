"""The bottleneck of residual networks, around any operator."""

from collections.abc import Mapping, Sequence
from typing import Optional, Union

import torch.nn as nn
from mmcv.cnn import build_norm_layer
from torch import Tensor

from mmctx.ops import add_conv_norm, apply_conv_norm
from mmctx.suggestions import did_you_mean

from .stochastic_depth import StochasticDepth


def resolve_depth(
    network: str,
    depth: Union[int, Sequence[int]],
    settings: Mapping[int, tuple[int, ...]],
) -> tuple[int, ...]:
    """Blocks of each of the four stages.

    Args:
        network (str): Name of the network, for the message.
        depth (int or Sequence[int]): A key of ``settings``, or four numbers of
            blocks.
        settings (Mapping): Blocks for each known depth.

    Raises:
        ValueError: ``depth`` is not one of the above.
    """
    is_list = isinstance(depth, (list, tuple))
    depths = tuple(depth) if is_list else settings.get(depth, ())
    if len(depths) != 4 or any(
        not isinstance(d, int) or d < 1 for d in depths
    ):
        raise ValueError(
            f'{network} depth must be one of {sorted(settings)}, or four '
            f'positive numbers of blocks, got {depth!r}.'
            f'{did_you_mean(depth, settings)}'
        )
    return depths


class ConvNorm(nn.Sequential):
    """A convolution, its norm and further layers."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) to (N, C, H', W')."""
        conv, norm, *tail = self
        x = apply_conv_norm(x, conv, norm)
        for layer in tail:
            x = layer(x)
        return x


def conv_norm(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    stride: int,
    norm_cfg: dict,
    *tail: nn.Module,
    dilation: int = 1,
) -> ConvNorm:
    """A bias-free "same" convolution, its norm and further layers."""
    conv = nn.Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        stride,
        padding=kernel_size // 2 * dilation,
        dilation=dilation,
        bias=False,
    )
    return ConvNorm(conv, build_norm_layer(norm_cfg, out_channels)[1], *tail)


class Bottleneck(nn.Module):
    """Residual bottleneck around an operator.

    Args:
        in_channels (int): Channels of the input.
        channels (int): Channels D inside.
        out_channels (int): Channels of the output.
        operator (nn.Module): From (N, D, H, W) to (N, D, H', W').
        shortcut (nn.Module): Maps the input to the output's shape.
        norm_cfg (dict): Norm layers.
        drop_path (float): Probability of dropping the branch. Defaults to 0.
        pool_before (nn.Module, optional): Pooling before the operator.
        pool_after (nn.Module, optional): Pooling after the operator.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        out_channels: int,
        operator: nn.Module,
        shortcut: nn.Module,
        norm_cfg: dict,
        drop_path: float = 0.0,
        pool_before: Optional[nn.Module] = None,
        pool_after: Optional[nn.Module] = None,
    ) -> None:
        super().__init__()
        self.reduce = conv_norm(
            in_channels, channels, 1, 1, norm_cfg, nn.ReLU(inplace=True)
        )
        self.pool_before = pool_before or nn.Identity()
        self.operator = operator
        self.pool_after = pool_after or nn.Identity()
        self.expand = conv_norm(channels, out_channels, 1, 1, norm_cfg)
        self.shortcut = shortcut
        self.drop_path = StochasticDepth(drop_path)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor, *others: Optional[Tensor]) -> Tensor:
        """(N, C_in, H, W) to (N, C_out, H / stride, W / stride).

        ``others`` are further inputs of the operator.
        """
        branch = self.operator(self.pool_before(self.reduce(x)), *others)
        branch, x = self.pool_after(branch), self.shortcut(x)
        x = add_conv_norm(x, branch, self.expand, self.drop_path(x))
        return self.act(x)
