"""Draw values, kernels and sampling points over a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Optional, Union

import numpy as np
from torch import Tensor

__all__ = ['Panel', 'draw_panels', 'stride_of']


class Panel(NamedTuple):
    """Something to draw.

    Attributes:
        title (str): What it is.
        values (Tensor): A value for each pixel of a feature map (H, W), NaN
            where there is none.
        on_picture (bool): Whether it lies on the picture; else ``values`` are
            a matrix or a curve (L,) of their own.
        points (Tensor, optional): Places (L, 2) on a feature map, x and y in
            its pixels; ``values`` are then their weights (L,).
        grid (Sequence[int], optional): Height and width of that feature map.
        windows (int): Side of the windows to outline, 0 for none.
    """

    title: str
    values: Tensor
    on_picture: bool = True
    points: Optional[Tensor] = None
    grid: Optional[Sequence[int]] = None
    windows: int = 0


def stride_of(grid: Sequence[int], size: Sequence[int]) -> Optional[int]:
    """Stride of a feature map.

    Args:
        grid (Sequence[int]): Height and width of the feature map.
        size (Sequence[int]): Height and width of the network's input.

    Returns:
        int, optional: The smallest power of two that leaves so many rows and
        columns, None if there is none up to 64.
    """
    for stride in (1, 2, 4, 8, 16, 32, 64):
        if all(-(-n // stride) == m for m, n in zip(grid, size)):
            return stride
    return None


def draw_panels(
    rows: Sequence[tuple[str, Sequence[Panel]]],
    picture: np.ndarray,
    size: Sequence[int],
    out_file: Union[str, Path],
    at: Optional[tuple[float, float]] = None,
) -> None:
    """Draw rows of panels; below each title stand its extreme values.

    What covers a small part of the picture is enlarged.

    Args:
        rows (Sequence): Name and panels of each row.
        picture (np.ndarray): What the network sees, grey (H, W).
        size (Sequence[int]): Height and width of the network's input: the
            picture's, or more with padding at the bottom and right.
        out_file (str | Path): The picture to write; its suffix sets the
            format.
        at (tuple[float, float], optional): A place to mark, x and y.
    """
    # Figure rather than pyplot, which may need a display.
    from matplotlib.figure import Figure

    columns = max(len(panels) for _, panels in rows)
    shape = (2.1 * columns + 0.5, 2.5 * len(rows))
    figure = Figure(figsize=shape, layout='constrained')
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for line, (name, panels) in zip(grid, rows):
        for axes, panel in zip(line, panels):
            axes.set_axis_on()
            axes.set(xticks=[], yticks=[])
            values = panel.values.float().numpy()
            low, high = np.nanmin(values), np.nanmax(values)
            title = f'{panel.title}\n{low:.2g} to {high:.2g}'
            axes.set_title(title, fontsize=7)
            if panel.on_picture:
                _draw_on_picture(axes, panel, values, picture, size, at)
            elif values.ndim == 1:
                axes.plot(values, marker='.')
                axes.set(ylim=(0, 1.1 * high or None))
            else:
                axes.imshow(values, aspect='auto', **_colours(values))
        line[0].set_ylabel(name, fontsize=7)
    figure.savefig(out_file, dpi=80)


def _colours(values: np.ndarray) -> dict:
    """From the lowest to the highest value; zero is white if between."""
    low, high = np.nanmin(values), np.nanmax(values)
    if low < 0 < high:
        largest = max(-low, high)
        return dict(vmin=-largest, vmax=largest, cmap='bwr')
    return dict(vmin=low, vmax=high, cmap='viridis')


def _draw_on_picture(axes, panel, values, picture, size, at) -> None:
    height, width = picture.shape
    grid = panel.grid or values.shape
    stride = stride_of(grid, size)
    axes.imshow(picture, cmap='gray', extent=(0, width, height, 0))
    if panel.points is None:
        y, x = (stride * i + stride / 2 for i in np.isfinite(values).nonzero())
        extent = (0, grid[1] * stride, grid[0] * stride, 0)
        axes.imshow(values, extent=extent, alpha=0.65, **_colours(values))
    else:
        x, y = ((panel.points.float().numpy() + 0.5) * stride).T
        axes.scatter(x, y, s=14, c=values, **_colours(values))
    if at is not None:
        axes.plot(*at, marker='+', color='tab:red')
    if panel.windows:
        step = panel.windows * stride
        axes.vlines(range(0, width, step), 0, height, 'white', linewidth=0.6)
        axes.hlines(range(0, height, step), 0, width, 'white', linewidth=0.6)
    reach = stride + max(np.ptp(x), np.ptp(y))
    axes.set(xlim=(0, width), ylim=(height, 0))
    if 3 * reach < min(height, width) and not panel.windows:
        x, y = x.mean(), y.mean()
        axes.set(xlim=(x - reach, x + reach), ylim=(y + reach, y - reach))
