"""Conv-attention and its position encodings for inference on a CPU.

Queries, keys and values are held channel by channel, as (N, C, H * W): the
projections to and from them transpose on the way, and heads, softmax and
convolutions then need no copies. The class token stays apart, so that nothing
is concatenated and split around a convolution.
"""

from typing import Optional

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

#: Elements of float32 in a cache line.
ALIGNMENT = 16


def position_encoding(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """Adding 1 to the centre of each window adds the input."""
    weight = layer.weight.clone()
    weight[:, :, 1, 1] += 1
    return F.conv2d(
        x, weight, layer.bias, 1, layer.padding, layer.dilation, x.shape[1]
    )


def refuse_relative_encoding(
    layer: nn.Module, *tensors: Tensor
) -> Optional[str]:
    """Why the windows are not computed at once."""
    if any(type(c) is not nn.Conv2d or c.bias is None for c in layer.convs):
        return 'a window is not an nn.Conv2d with a bias'
    if len({conv.dilation for conv in layer.convs}) > 1:
        return 'the windows have different dilations'
    return None


def relative_encoding(layer: nn.Module, q: Tensor, v: Tensor) -> Tensor:
    """As the layer's forward."""
    return _convolve(layer, v).mul_(q)


def _convolve(layer: nn.Module, v: Tensor) -> Tensor:
    """Pad all windows with zeros to the size of the largest.

    One convolution then serves all heads, without split and concatenation.
    """
    window = max(conv.kernel_size[0] for conv in layer.convs)
    weights = [
        F.pad(conv.weight, [(window - conv.kernel_size[0]) // 2] * 4)
        for conv in layer.convs
    ]
    biases = [conv.bias for conv in layer.convs]
    dilation = layer.convs[0].dilation
    padding = [window // 2 * d for d in dilation]
    return F.conv2d(
        v, torch.cat(weights), torch.cat(biases), 1, padding, dilation,
        v.shape[1],
    )  # fmt: skip


def refuse_conv_attention(
    layer: nn.Module,
    x: Tensor,
    token: Optional[Tensor] = None,
    encoding: Optional[nn.Module] = None,
) -> Optional[str]:
    """Why these layers are not computed channel by channel."""
    projections = layer.qkv, layer.proj
    if any(type(p) is not nn.Linear or p.bias is None for p in projections):
        return 'a projection is not an nn.Linear with a bias'
    if token is None:
        return 'there is no class token'
    return None if encoding is None else refuse_relative_encoding(encoding)


def conv_attention(
    layer: nn.Module,
    x: Tensor,
    token: Tensor,
    encoding: Optional[nn.Module] = None,
) -> tuple[Tensor, Tensor]:
    """As the layer's forward, with a class token."""
    out, token = _attend(layer, x, token, encoding)
    weight = layer.proj.weight.t().expand(len(x), -1, -1)
    out = torch.baddbmm(layer.proj.bias, out.mT, weight)
    out = out.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)
    return out, layer.proj(token.mT)


def _attend(
    layer: nn.Module,
    x: Tensor,
    token: Tensor,
    encoding: Optional[nn.Module],
) -> tuple[Tensor, Tensor]:
    """Eq. 8: (N, C, H * W) and (N, C, 1)."""
    weight, bias = layer.qkv.weight, layer.qkv.bias
    q_token, k_token, v_token = _split(_project_token(token, weight), bias)
    q, k, v = _split(_project_pixels(x, weight), bias)
    p = _by_head(layer, _softmax(k, k_token))
    del k  # The last that holds the projections without their biases.
    length = v.shape[2]
    summary = torch.baddbmm(
        p[..., length : length + 1] * _by_head(layer, v_token).mT,
        p[..., :length],
        _by_head(layer, v).mT,
    )
    del p
    summary = summary.mul_(layer.scale).mT
    out = torch.bmm(summary, _by_head(layer, q)).view(q.shape)
    if encoding is not None:
        values = v.unflatten(2, x.shape[2:])
        out.addcmul_(q, _convolve(encoding, values).flatten(2))
    token = torch.bmm(summary, _by_head(layer, q_token)).view(q_token.shape)
    return out, token


def _project_pixels(x: Tensor, weight: Tensor) -> Tensor:
    """(N, C, H, W) by (C_out, C) to (N, C_out, H * W)."""
    return torch.bmm(weight.expand(len(x), -1, -1), x.flatten(2))


def _project_token(token: Tensor, weight: Tensor) -> Tensor:
    """(N, 1, C) by (C_out, C) to (N, C_out, 1).

    The weight comes first: a CPU multiplies a few columns by it in half the
    time that a few rows take.
    """
    return torch.mm(weight, token.squeeze(1).t()).t().unsqueeze(2)


def _split(qkv: Tensor, bias: Tensor) -> list[Tensor]:
    """Queries, keys and values, with their biases, of (N, 3C, L).

    A constant added to a key channel of every token cancels in the softmax:
    keys need no bias.
    """
    q, k, v = qkv.chunk(3, dim=1)
    q_bias, _, v_bias = bias.unsqueeze(1).chunk(3)
    return [q + q_bias, k, v + v_bias]


def _softmax(keys: Tensor, token: Tensor) -> Tensor:
    """Softmax over (N, C, L), the token and zeros up to whole cache lines."""
    padding = -(keys.shape[2] + 1) % ALIGNMENT
    ends = keys.new_full((*keys.shape[:2], padding), -torch.inf)
    joined = torch.cat((keys, token, ends), dim=2)
    return torch.softmax(joined, 2, out=joined)


def _by_head(layer: nn.Module, x: Tensor) -> Tensor:
    """(N, C, L) to (N * heads, C / heads, L)."""
    num_heads, width = layer.heads
    return x.reshape(len(x) * num_heads, width, x.shape[2])
