"""Pictures of the classes that Contextual CNN still considers, by stage."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Union

import torch
import torch.nn as nn
from torch import Tensor

__all__ = ['StageRanks', 'draw_class_narrowing', 'rank_classes']

_TRUE, _KEPT, _DROPPED = 'tab:green', '0.2', '0.75'


class StageRanks(NamedTuple):
    """How a stage ranks the classes of N images.

    Attributes:
        stage (int): The scored stage, 1 to 4.
        ranks (Tensor): Class indices (N, classes), the likeliest first.
        kept (int): How many of the first the stage passes on; 1 in the last
            stage, the prediction.
    """

    stage: int
    ranks: Tensor
    kept: int


@torch.no_grad()
def rank_classes(backbone: nn.Module, images: Tensor) -> list[StageRanks]:
    """Rank the classes at each scored stage.

    Args:
        backbone (nn.Module): A contextual backbone of a classifier, with
            ``with_class_scores=True``, in evaluation mode.
        images (Tensor): Normalised images (N, C, H, W).

    Returns:
        list[StageRanks]: From the first scored stage to the last.

    Raises:
        ValueError: The backbone returns no class scores.
    """
    maps = backbone(images)
    if not getattr(maps, 'class_scores', ()):
        raise ValueError(
            f'{type(backbone).__name__} returns no class scores. Use a '
            'classifier with a contextual backbone and '
            'with_class_scores=True.'
        )
    stages = sorted(int(i) for i in backbone.contextualizing.classify)
    counts = [*backbone.contextualizing.class_counts, 1]
    ranks = [
        scores.argsort(dim=1, descending=True, stable=True)
        for scores in maps.class_scores
    ]
    return [StageRanks(i + 1, r, counts[i]) for i, r in zip(stages, ranks)]


def draw_class_narrowing(
    images: Sequence,
    labels: Sequence[int],
    stages: Sequence[StageRanks],
    classes: Sequence[str],
    out_file: Union[str, Path],
    max_classes: int = 10,
    columns: int = 2,
) -> None:
    """Draw each image beside the ranked classes of all stages.

    Best class on top; classes that a stage keeps are dark, those that it drops
    pale; the true class is green.

    Args:
        images (Sequence): RGB images (H, W, 3).
        labels (Sequence[int]): Their true classes.
        stages (Sequence[StageRanks]): See :func:`rank_classes`.
        classes (Sequence[str]): Names of the classes.
        out_file (str | Path): The picture to write; its suffix sets the
            format.
        max_classes (int): Number of classes to show per stage. Defaults to 10.
        columns (int): Images side by side. Defaults to 2.
    """
    # Figure rather than pyplot, which may need a display.
    from matplotlib.figure import Figure

    rows = -(-len(images) // columns)
    figure = Figure(figsize=(4.5 * columns, 2.2 * rows), layout='constrained')
    grid = figure.subplots(rows, 2 * columns, squeeze=False)
    for axes in grid.flat:
        axes.axis('off')
    for i, (image, label) in enumerate(zip(images, labels)):
        left, right = grid[i // columns, 2 * (i % columns) :][:2]
        left.imshow(image)
        left.set_title(classes[label], color=_TRUE, fontsize='small')
        _draw_ranks(right, i, label, stages, classes, max_classes)
    figure.savefig(out_file, dpi=80)


def _draw_ranks(
    axes,
    image: int,
    label: int,
    stages: Sequence[StageRanks],
    classes: Sequence[str],
    max_classes: int,
) -> None:
    """The ranked classes of one image, a column for each stage."""
    shown = min(max_classes, len(classes))
    # Headings take the first two rows.
    axes.set(xlim=(-0.5, len(stages) - 0.5), ylim=(shown, -2))
    look = dict(ha='center', va='center', fontsize='small')
    for x, (stage, ranks, kept) in enumerate(stages):
        axes.text(x, -1.5, f'stage {stage}\nkeeps {kept}', color='0.5', **look)
        for y, index in enumerate(ranks[image, :shown].tolist()):
            is_kept = y < kept
            color = _KEPT if is_kept else _DROPPED
            axes.text(
                x,
                y,
                classes[index],
                color=_TRUE if index == label else color,
                weight='bold' if is_kept else 'normal',
                alpha=1.0 if is_kept else 0.5,
                **look,
            )
