"""Curves of runs, from the scalars that MMEngine's logger writes."""

import json
from pathlib import Path
from typing import Union

__all__ = ['plot_curves', 'read_scalars']

# Metrics of the validation panel, if a run has them, and their style.
_METRICS = {
    'coco/bbox_mAP': '-',
    'coco/bbox_mAP_50': ':',
    'coco/segm_mAP': '--',
    'mIoU': '-',
    'accuracy/top1': '-',
}


def read_scalars(work_dir: Union[str, Path]) -> tuple[dict, dict]:
    """Read the scalars of the newest run in a work directory.

    Args:
        work_dir (str | Path): Work directory of a run.

    Returns:
        tuple[dict, dict]: Curves of training and of validation. Each is a
        list of (step, value) per name. A step is an iteration; in validation
        it is an epoch where the run counts in epochs.

    Raises:
        FileNotFoundError: There are no scalars.
    """
    files = sorted(Path(work_dir).glob('*/vis_data/scalars.json'))
    if not files:
        raise FileNotFoundError(
            f'{work_dir} has no */vis_data/scalars.json. Give the work '
            'directory of a run that has logged something through '
            'LocalVisBackend, the default.'
        )
    training, validation = {}, {}
    for line in files[-1].read_text().splitlines():
        record = json.loads(line)
        curves = training if 'loss' in record else validation
        step = record.pop('step')
        for name, value in record.items():
            curves.setdefault(name, []).append((step, value))
    return training, validation


def plot_curves(runs: dict, out_file: Union[str, Path]) -> None:
    """Plot training loss and validation metrics of one or more runs.

    Args:
        runs (dict): Work directories by display name.
        out_file (str | Path): The picture to write; its suffix sets the
            format.

    Raises:
        FileNotFoundError: A work directory has no scalars.
    """
    # Figure rather than pyplot, which may need a display.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.5), layout='constrained')
    left, right = figure.subplots(1, 2)
    unit = 'iteration'
    for i, (name, work_dir) in enumerate(runs.items()):
        training, validation = read_scalars(work_dir)
        look = dict(color=f'C{i}', label=name)
        left.plot(*_columns(training.get('loss', [])), **look)
        for metric, style in _METRICS.items():
            points = validation.get(metric, [])
            if points:
                look['label'] = f'{name} {metric.split("/")[-1]}'.strip()
                right.plot(*_columns(points), style, marker='.', **look)
            epochs = training.get('epoch', [])
            if points and epochs and points[-1][0] <= epochs[-1][1]:
                unit = 'epoch'
    left.set(xlabel='iteration', ylabel='training loss')
    right.set(xlabel=unit, ylabel='validation')
    for axes in (left, right):
        axes.grid(alpha=0.3)
    if any(runs):
        left.legend(fontsize='small')
    if right.lines:
        right.legend(fontsize='small')
    figure.savefig(out_file, dpi=100)


def _columns(points: list) -> tuple[list, list]:
    """Steps and values of a list of pairs."""
    return [step for step, _ in points], [value for _, value in points]
