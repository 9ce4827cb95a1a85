"""What the context layers of each family do at a pixel.

A function per family takes a layer, a call of it, and the row y and column x
of a pixel of its output. It returns panels, and the layer's level: how much
its context differs from a fixed one, as ``_LEVELS`` says.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Optional

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from mmctx.models.backbones.coat import OTHERS, ParallelBlock
from mmctx.models.layers import (
    ContextAggregation,
    ContextualConv2d,
    ConvAttention,
    CoTLayer,
    PatchwiseTransformerEncoder,
)
from mmctx.models.layers.conv_attention import CrossScaleAttention
from mmctx.ops.contextual_deform_conv.reference import tap_positions

from .panels import Panel, stride_of
from .recorder import Call, replay, tensors_in

__all__ = ['context_layers', 'context_rows', 'feature_rows']

Drawn = tuple[list[Panel], Optional[float]]


def cot(layer: CoTLayer, call: Call, y: int, x: int) -> Drawn:
    """Attention weights, which are no softmax, and the dynamic share."""
    if layer.context == 'static':
        return [], None
    (attention,) = replay(layer, call, layer.attention)
    side, reach = layer.kernel_size, layer.kernel_size // 2 * layer.dilation
    weights = attention.output[0, :, y, x].unflatten(0, (-1, side, side))
    size = call.output.shape[2:]
    near = weights.new_full([n + 2 * reach for n in size], torch.nan)
    rows, columns = (
        slice(n, n + 2 * reach + 1, layer.dilation) for n in (y, x)
    )
    near[rows, columns] = weights.abs().mean(0)
    near = near[reach : reach + size[0], reach : reach + size[1]]
    panels = [
        Panel('|attention|, mean over groups', near),
        Panel('attention, a row per group', weights.flatten(1), False),
    ]
    if layer.context != 'full':
        return panels, None
    share, *contexts = fused_contexts(layer, call)
    dynamic, static = (
        (weight * context).norm(dim=0)
        for weight, context in zip((share, 1 - share), contexts)
    )
    part = dynamic / (dynamic + static).clamp_min(1e-12)
    panels.append(Panel('dynamic part of the output', part))
    return panels, share.mean().item()


def fused_contexts(
    layer: CoTLayer, call: Call
) -> tuple[Tensor, Tensor, Tensor]:
    """Dynamic share (D, 1, 1) and both contexts (D, H, W)."""
    fusion = layer.fusion
    mixed, mlp = replay(layer, call, fusion, fusion.mlp)
    share = mlp.output[0].unflatten(0, (-1, 2)).softmax(1)[:, 0]
    return share, mixed.args[0][0], mixed.args[1][0]


def contnet(
    layer: PatchwiseTransformerEncoder, call: Call, y: int, x: int
) -> Drawn:
    """Attention inside the window that holds the pixel."""
    side = layer.patch_size
    top, left = y - y % side, x - x % side
    weights = window_attention(layer, call, y, x)
    fields = weights.new_full(
        (len(weights), *call.output.shape[2:]), torch.nan
    )
    view = fields[:, top : top + side, left : left + side]
    view.copy_(weights[:, : view.shape[1], : view.shape[2]])
    title = f'windows of {side} x {side}, mean over heads'
    panels = [Panel(title, fields.mean(0), windows=side)]
    if len(fields) > 1:
        panels += _by_head(fields)
    return panels, None


def window_attention(
    layer: PatchwiseTransformerEncoder, call: Call, y: int, x: int
) -> Tensor:
    """Attention of a pixel (heads, h, w) to those of its window."""
    side, attention = layer.patch_size, layer.attention
    tokens = call.args[0][:1]
    if not layer.pad_mask:
        bottom, right = (-n % side for n in tokens.shape[2:])
        tokens = F.pad(tokens, (0, right, 0, bottom))
    window = tokens.permute(0, 2, 3, 1)
    if layer.codes_whole_map:
        window = layer.position(window)
    window = window[:, y - y % side :, x - x % side :][:, :side, :side]
    if not layer.codes_whole_map:
        window = layer.position(window)
    if layer.pre_norm:
        window = layer.norm1(window)
    size = window.shape[1:3]
    heads = attention.qkv(window).unflatten(3, (3, attention.num_heads, -1))
    q, k, _ = heads[0].flatten(0, 1).permute(1, 2, 0, 3)
    logits = q * q.shape[-1] ** -0.5 @ k.mT
    if attention.window_size is not None:
        logits = logits + attention._relative_bias(*size)[0]
    pixel = y % side * size[1] + x % side
    return logits.softmax(2)[:, pixel].unflatten(1, size)


def contextual_cnn(
    layer: ContextualConv2d, call: Call, y: int, x: int
) -> Drawn:
    """Sampling points with their masks, and how much the kernel changed."""
    panels, level = [], None
    if layer.sampling_predictor is not None:
        points, mask, steps = sampling_points(layer, call, y, x)
        grid = call.args[0].shape[2:]
        panels = [
            Panel('sampling points, mask', mask, points=points, grid=grid),
            Panel('mask', mask.view(layer.kernel_size), False),
            Panel('mean offset in its pixels', steps),
        ]
    if layer.weight_predictor is not None:
        (predicted,) = replay(layer, call, layer.weight_predictor)
        delta = predicted.output[0].unflatten(0, layer.weight_predictor.shape)
        delta, weight = (
            w.flatten(0, 1).norm(dim=0)
            for w in (delta.expand_as(layer.weight), layer.weight)
        )
        panels.append(Panel('change of the kernel', delta / weight, False))
        level = (delta.norm() / weight.norm()).item()
    return panels, level


def sampling_points(
    layer: ContextualConv2d, call: Call, y: int, x: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Positions (T, 2), x and y in pixels of the input, and masks (T,) of the
    taps at a pixel; the mean length of the offsets of each (H', W')."""
    (predicted,) = replay(layer, call, layer.sampling_predictor)
    taps = layer.sampling_predictor.taps
    raw, mask = predicted.output[:1].tensor_split((2 * taps,), 1)
    dilation = raw.new_tensor(layer.dilation)[:, None, None]
    steps = raw.unflatten(1, (taps, 2)) * dilation
    geometry = layer.kernel_size, layer.stride, layer.padding, layer.dilation
    places = tap_positions(steps.flatten(1, 2), *geometry)
    places = places[0, :, y * raw.shape[3] + x].flip(0).T
    mask = mask[0, :, y, x].sigmoid() if mask.numel() else raw.new_ones(taps)
    return places, mask, steps[0].norm(dim=1).mean(0)


def container(layer: ContextAggregation, call: Call, y: int, x: int) -> Drawn:
    """Static and dynamic affinity, and their mix."""
    _, rows = affinities(layer, call, y, x)
    panels = [
        Panel(f'|{name}|, mean over channels', row.abs().mean(0))
        for name, row in rows.items()
    ]
    level = None
    if layer.mixing_weight is not None:
        weight = layer.mixing_weight.flatten()
        level = (weight.sigmoid() if len(weight) == 1 else weight)[0].item()
    return panels, level


def affinities(
    layer: ContextAggregation, call: Call, y: int, x: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """Values (C, H, W), and each affinity of a pixel to all of them."""
    (projected,) = replay(layer, call, layer.project_in)
    *query_key, v = projected.output[:1].split(layer.channels, 1)
    functions = {}
    if layer.has_dynamic:
        functions['dynamic'] = lambda v: layer._attend(*query_key, v)
    if layer.static is not None:
        functions['static'] = layer.static
    if len(functions) == 2:
        parts = tuple(functions.values())
        functions['mix'] = lambda v: layer._mix(*(part(v) for part in parts))
    return v[0], {
        name: affinity(function, v, (slice(None), y, x))
        for name, function in functions.items()
    }


def coat(layer: ConvAttention, call: Call, y: int, x: int) -> Drawn:
    """Effective attention Q softmax(K)^T of each head, which has signs."""
    grid = call.output[0].shape[2:]

    def fields(encoded: bool, heads: int) -> Tensor:
        _, row = effective_attention(layer, call, y, x, encoded)
        row = row[-grid.numel() :].unflatten(1, (heads, -1)).mean(2)
        return row.T.unflatten(1, grid)

    whole = Panel('all heads, position encoding', fields(True, 1)[0])
    return [whole, *_by_head(fields(False, layer.heads[0]))], None


def effective_attention(
    layer: ConvAttention, call: Call, y: int, x: int, encoded: bool
) -> tuple[Tensor, Tensor]:
    """Values (L, C), and their weights at a pixel, with the position encoding
    or without. A class token comes first."""
    (qkv,) = replay(layer, call, layer.qkv)
    q, k, v = qkv.output[:1].chunk(3, 2)
    size = call.output[0].shape[2:]
    encoding = (*call.args, None, None)[2] if encoded else None
    pixel = v.shape[1] - size.numel() + y * size[1] + x
    return v[0], affinity(
        lambda v: layer.attend(q, k, v, size, encoding), v, (pixel,)
    )


def coat_exchange(block: ParallelBlock, call: Call, y: int, x: int) -> Drawn:
    """What the scales of a parallel block receive from each other."""
    panels, shares = [], []
    for scale in block.outputs if block.is_mixed else ():
        parts = exchanged(block, call, scale)
        norms = {s: parts[s].norm(dim=0) for s in sorted(parts)}
        total = sum(norms.values()).clamp_min(1e-12)
        part = 1 - norms[scale] / total
        panels.append(Panel(f'part of scale {scale} from others', part))
        shares.append([norm.sum() / total.sum() for norm in norms.values()])
    if not panels:
        return [], None
    level = sum(panel.values.mean().item() for panel in panels) / len(panels)
    title = 'share of each scale, a row per output'
    return [*panels, Panel(title, torch.tensor(shares), False)], level


def exchanged(
    block: ParallelBlock, call: Call, scale: str
) -> dict[str, Tensor]:
    """What each scale adds to one: feature maps (C, H, W)."""
    scales = [scale, *OTHERS[scale]]
    calls = replay(block, call, *(block.attention[s] for s in scales))
    size = calls[0].output[0].shape[2:]
    return {
        s: F.interpolate(attended.output[0], size, mode='bilinear')[0]
        for s, attended in zip(scales, calls)
    }


def _by_head(fields: Tensor) -> list[Panel]:
    return [Panel(f'head {i}', field) for i, field in enumerate(fields, 1)]


def affinity(
    function: Callable[[Tensor], Tensor], values: Tensor, pixel: tuple
) -> Tensor:
    """Weights of all values (1, ...) in one pixel, an index of ``result[0]``,
    of an affine function of them that mixes no channels: its derivative."""
    with torch.enable_grad():
        values = values.detach().requires_grad_()
        output = function(values)[0][pixel].sum()
        return torch.autograd.grad(output, values)[0][0]


_DRAWERS: dict[type, Callable[..., Drawn]] = {
    CoTLayer: cot,
    PatchwiseTransformerEncoder: contnet,
    ContextualConv2d: contextual_cnn,
    ContextAggregation: container,
    ConvAttention: coat,
    ParallelBlock: coat_exchange,
}
#: What the level of a layer measures.
_LEVELS = {
    CoTLayer: 'dynamic share, mean over channels',
    ContextualConv2d: 'change of the kernels, relative',
    ContextAggregation: 'weight of the dynamic affinity',
    ParallelBlock: 'part from other scales',
}


def context_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers of a model that :func:`context_rows` can draw, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, tuple(_DRAWERS))
        and not isinstance(module, CrossScaleAttention)
    }


@torch.no_grad()
def context_rows(
    layers: Mapping[str, nn.Module],
    calls: Mapping[nn.Module, Sequence[Call]],
    size: Sequence[int],
    at: tuple[float, float],
) -> list[tuple[str, list[Panel]]]:
    """Panels of the context at a place of an image.

    The last layer of each resolution has a row, for ConTNet of each resolution
    and window; then come curves over all layers. Calls on anything but feature
    maps of one image, such as regions of interest, are left out.

    Args:
        layers (Mapping): Of :func:`context_layers`.
        calls (Mapping): What was recorded of them.
        size (Sequence[int]): Height and width of the network's input.
        at (tuple[float, float]): The place, x and y in pixels of the input.

    Returns:
        list: Names and panels of rows.
    """
    rows, levels = {}, {}
    for name, layer in layers.items():
        kind = next(kind for kind in _DRAWERS if isinstance(layer, kind))
        for call in calls[layer]:
            images, _, *grid = tensors_in(call.output)[0].shape
            stride = stride_of(grid, size)
            if images != 1 or stride is None:
                continue
            x, y = (
                min(int(place / stride), side - 1)
                for place, side in zip(at, grid[::-1])
            )
            panels, level = _DRAWERS[kind](layer, call, y, x)
            if panels:
                window = getattr(layer, 'patch_size', 0)
                order = [*_DRAWERS].index(kind), stride, *grid, window
                rows[order] = name, panels
            if level is not None:
                levels.setdefault(_LEVELS[kind], []).append(level)
    curves = [
        Panel(title, torch.tensor(values), False)
        for title, values in levels.items()
        if len(values) > 1
    ]
    drawn = [rows[order] for order in sorted(rows)]
    return [*drawn, ('all layers', curves)] if curves else drawn


def feature_rows(
    output: Any, size: Sequence[int], channels: int = 7
) -> list[tuple[str, list[Panel]]]:
    """Panels of the feature maps in what a module returned for one image.

    Args:
        output (Any): Tensors (1, C, H, W) or (1, H, W, C), at any depth;
            others are left out.
        size (Sequence[int]): Height and width of the network's input.
        channels (int): How many channels to show beside the norm over all:
            those of the largest variance. Defaults to 7.

    Returns:
        list: Names and panels of rows.
    """
    rows = []
    for x in tensors_in(output):
        if x.ndim == 4 and stride_of(x.shape[2:], size) is None:
            x = x.permute(0, 3, 1, 2)
        if x.ndim != 4 or stride_of(x.shape[2:], size) is None:
            continue
        x = x[0].float()
        strongest = x.flatten(1).var(1).topk(min(channels, len(x))).indices
        panels = [Panel(f'channel {i}', x[i]) for i in strongest.tolist()]
        name = ' x '.join(map(str, x.shape))
        rows.append((name, [Panel('norm', x.norm(dim=0)), *panels]))
    return rows
