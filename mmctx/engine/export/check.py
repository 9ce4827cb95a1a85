"""Compare a file with the model that it was made of."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .files import read
from .network import Network, Refusal

#: Largest relative difference, in float32 and in float16.
TOLERANCE, HALF_TOLERANCE = 1e-3, 5e-2
#: Boxes whose sides differ by more, in parts of the image, are not the same.
SAME_BOX = 1e-2


class Comparison(NamedTuple):
    """One batch.

    Attributes:
        shape (tuple[int]): N, H and W.
        difference (float): The largest, relative to the largest value;
            infinite where a box has no partner.
        boxes (int): Number of boxes compared.
    """

    shape: tuple[int, ...]
    difference: float
    boxes: int = 0


def sizes_to_check(
    shape: Sequence[int], dynamic: bool, smallest: int
) -> Iterator[tuple[int, int, int]]:
    """Batches, heights and widths."""
    height, width = shape
    yield 1, height, width
    if dynamic:
        yield 2, height, width
        yield 1, max(smallest, height * 3 // 5 | 1), width * 5 // 4 | 1
        yield 2, max(smallest, width - 6), max(smallest, height // 2)
        yield 1, smallest, smallest


def images(network: Network, shape: Sequence[int], seed: int) -> Tensor:
    """Batches (N, 3, H, W) of blots and edges."""
    n, height, width = shape
    generator = torch.Generator().manual_seed(seed)
    x: Any = 0
    for cells in (2, 5, 12, 40):
        noise = torch.rand(n, 3, cells, cells, generator=generator) - 0.5
        x = x + F.interpolate(noise, (height, width), mode='nearest')
    pixels = ((x / 2).tanh() * 127 + 128).round().clamp(0, 255)
    if network.takes_pixels:
        return pixels.to(torch.uint8)
    return (pixels - 120) / 58


def check_file(
    model: nn.Module,
    network: Network,
    path: Path,
    shape: Sequence[int],
    dynamic: bool,
    pictures: Sequence[Tensor] = (),
) -> list[Comparison]:
    """Compare a file with the model it was made of, on several batches.

    Args:
        model (nn.Module): The model.
        network (Network): What was written.
        path (Path): The file.
        shape (Sequence[int]): Height and width.
        dynamic (bool): Also compare at other sizes and in batches of two.
        pictures (Sequence[Tensor]): Further batches.

    Raises:
        Refusal: The file refuses a size, or its outputs differ.
    """
    run, _ = read(path)
    smallest = max(32, 2 * getattr(network, 'divisor', 1))
    batches = [
        images(network, size, seed)
        for seed, size in enumerate(sizes_to_check(shape, dynamic, smallest))
    ]
    if not dynamic:
        batches += [images(network, (1, *shape), seed) for seed in (7, 8)]
    comparisons, refused = [], []
    for batch in (*batches, *pictures):
        size = tuple(batch.shape[i] for i in (0, 2, 3))
        try:
            outputs = run(batch)
        except Exception as error:
            refused.append((size, str(error).strip().splitlines()[-1]))
            continue
        comparisons.append(
            Comparison(size, *compare(model, network, batch, outputs))
        )
    tolerance = HALF_TOLERANCE if network.is_half else TOLERANCE
    bad = [c for c in comparisons if not c.difference <= tolerance]
    if refused or bad:
        raise Refusal(_say(comparisons, refused, bad, tolerance))
    return comparisons


def _say(comparisons: list, refused: list, bad: list, tolerance: float) -> str:
    good = [_size(c.shape) for c in comparisons if c not in bad]
    parts = [f'right at {", ".join(good) or "no size"}']
    parts += [f'refused at {_size(size)} ({why})' for size, why in refused]
    parts += [
        f'differs by {c.difference:.1e} (allowed: {tolerance:.0e}) at '
        f'{_size(c.shape)}'
        for c in bad
    ]
    return (
        f'the file was not kept; N x H x W: {"; ".join(parts)}. Without '
        '--dynamic, --shape H W exports for one size'
    )


def _size(shape: Sequence[int]) -> str:
    return ' x '.join(map(str, shape))


def compare(
    model: nn.Module, network: Network, batch: Tensor, outputs: list[Tensor]
) -> tuple[float, int]:
    """Largest relative difference, and number of boxes."""
    with torch.no_grad():
        expected = _REFERENCES[network.task](model, network, batch)
    values = (
        [x for image in expected for x in image.values()]
        if 'boxes' in network.outputs
        else expected
    )
    if not all(x.isfinite().all() for x in values):
        raise Refusal(
            'the model itself returns infinite values or none (NaN): give it '
            'a checkpoint'
        )
    if not all(x.isfinite().all() for x in outputs):
        return math.inf, 0
    if 'boxes' not in network.outputs:
        return (
            max(
                _relative(a, b) if a.shape == b.shape else math.inf
                for a, b in zip(outputs, expected)
            ),
            0,
        )
    named = dict(zip(network.outputs, outputs))
    worst, boxes = 0.0, 0
    for i, image in enumerate(expected):
        count = int((named['scores'][i] > 0).sum())
        actual = {name: x[i, :count] for name, x in named.items()}
        is_full = count == named['scores'].shape[1]
        difference = match(actual, image, max(batch.shape[2:]), is_full)
        worst = max(worst, difference)
        boxes += len(image['scores'])
    return worst, boxes


def _relative(a: Tensor, b: Tensor) -> float:
    if not b.numel():
        return 0.0
    if not b.is_floating_point():
        # Labels: share of the places that differ.
        return (a != b).float().mean().item()
    return ((a - b).abs().max() / b.abs().max().clamp_min(1e-12)).item()


def match(
    actual: dict[str, Tensor],
    expected: dict[str, Tensor],
    side: int,
    is_full: bool,
) -> float:
    """Largest relative difference of boxes, matched one to one.

    Of equal labels, the closest box is the partner. Where there is no room for
    more boxes, those with the lowest score need none: rounding decides which
    of them are kept.
    """
    cut = -1.0
    if is_full and len(expected['scores']):
        cut = max(s['scores'].min().item() for s in (actual, expected))
        cut = cut * (1 + 1e-3) + 1e-6
    free = torch.ones(len(actual['scores']), dtype=torch.bool)
    worst = 0.0
    for k, score in enumerate(expected['scores']):
        distance = (actual['boxes'] - expected['boxes'][k]).abs().amax(1)
        distance = distance / side + (actual['scores'] - score).abs()
        distance[~free | (actual['labels'] != expected['labels'][k])] = 9.0
        if not len(distance) or distance.min() > SAME_BOX:
            if score > cut:
                return math.inf
            continue
        i = distance.argmin()
        free[i] = False
        for name, x in expected.items():
            scale = side if name == 'boxes' else 1.0
            difference = (actual[name][i] - x[k]).abs().max() / scale
            worst = max(worst, difference.item())
    return math.inf if (actual['scores'][free] > cut).any() else worst


def _normalised(model: nn.Module, network: Network, batch: Tensor) -> Tensor:
    """What the model's own preprocessor makes of pixels."""
    if not network.takes_pixels:
        return batch
    preprocessor = getattr(model, 'data_preprocessor', None)
    if not getattr(preprocessor, '_enable_normalize', False):
        return network.preprocess(batch)
    # Which is given pixels as OpenCV reads them.
    pixels = batch.flip(1) if network.preprocess.order == 'rgb' else batch
    data = dict(inputs=list(pixels), data_samples=None)
    return preprocessor(data, False)['inputs'][
        ..., : batch.shape[2], : batch.shape[3]
    ]


def _maps(model: nn.Module, network: Network, batch: Tensor) -> list[Tensor]:
    return list(model(_normalised(model, network, batch)))


def _class_scores(
    model: nn.Module, network: Network, batch: Tensor
) -> list[Tensor]:
    samples = model.predict(_normalised(model, network, batch))
    return [torch.stack([sample.pred_score for sample in samples])]


def _segmentation(
    model: nn.Module, network: Network, batch: Tensor
) -> list[Tensor]:
    samples = model.predict(_normalised(model, network, batch))
    logits = torch.stack([sample.seg_logits.data for sample in samples])
    labels = torch.cat([sample.pred_sem_seg.data for sample in samples])
    return [logits, labels]


def _boxes(
    model: nn.Module, network: Any, batch: Tensor
) -> list[dict[str, Tensor]]:
    from mmdet.structures import DetDataSample

    x = _normalised(model, network, batch)
    size = tuple(x.shape[2:])
    padded = [math.ceil(s / network.divisor) * network.divisor for s in size]
    x = F.pad(x, (0, padded[1] - size[1], 0, padded[0] - size[0]))
    info = dict(
        img_shape=size,
        ori_shape=size,
        pad_shape=tuple(padded),
        batch_input_shape=tuple(padded),
        scale_factor=(1.0, 1.0),
    )
    samples = [DetDataSample(metainfo=info) for _ in range(len(x))]
    with _mask_logits(network, model) as logits:
        results = model.predict(x, samples, rescale=False)
    instances = [sample.pred_instances for sample in results]
    found = [
        dict(boxes=i.bboxes, scores=i.scores, labels=i.labels)
        for i in instances
    ]
    if 'masks' not in network.outputs:
        return found
    start = 0
    for image in found:
        labels = image['labels']
        rows = torch.arange(start, start + len(labels))
        start += len(labels)
        stages = [x.sigmoid()[rows] for x in logits if len(labels)]
        masks = [x[range(len(x)), labels if x.shape[1] > 1 else 0]
                 for x in stages]  # fmt: skip
        shape = (0, 28, 28)
        image['masks'] = (
            sum(masks) / len(masks) if masks else x.new_zeros(shape)
        )
    return found


@contextmanager
def _mask_logits(network: Any, model: nn.Module) -> Iterator[list[Tensor]]:
    """What the mask heads return."""
    logits: list[Tensor] = []
    handles = []
    if 'masks' in network.outputs:
        heads = model.roi_head.mask_head
        for head in heads if isinstance(heads, nn.ModuleList) else [heads]:
            handles.append(
                head.register_forward_hook(
                    lambda *args: logits.append(args[2].detach())
                )
            )
    yield logits
    for handle in handles:
        handle.remove()


_REFERENCES: dict[str, Callable] = {
    'feature maps': _maps,
    'classification': _class_scores,
    'semantic segmentation': _segmentation,
    'detection': _boxes,
    'instance segmentation': _boxes,
}
