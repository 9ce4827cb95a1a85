"""Curves of a run, from the scalars that MMEngine's logger keeps."""

import json
from pathlib import Path
from typing import Union

__all__ = ['plot_curves', 'read_scalars']

# The one figure per task that tells how good a model is, best first.
_METRICS = ('coco/segm_mAP', 'coco/bbox_mAP', 'mIoU', 'accuracy/top1')


def read_scalars(work_dir: Union[str, Path]) -> tuple[dict, dict]:
    """Read the newest ``vis_data/scalars.json`` below a work directory.

    Args:
        work_dir (str | Path): Work directory of a run.

    Returns:
        tuple[dict, dict]: Curves of training and of validation: per name a
        list of (step, value) pairs. Steps of training are iterations; steps
        of validation are epochs where the run counts in epochs.

    Raises:
        FileNotFoundError: No scalars are there.
    """
    files = sorted(Path(work_dir).glob('*/vis_data/scalars.json'))
    if not files:
        raise FileNotFoundError(
            f'{work_dir} has no */vis_data/scalars.json. Give the work '
            'directory of a run with the LocalVisBackend (the default).'
        )
    training, validation = {}, {}
    for line in files[-1].read_text().splitlines():
        record = json.loads(line)
        curves = training if 'loss' in record else validation
        step = record.pop('step')
        for name, value in record.items():
            curves.setdefault(name, []).append((step, value))
    return training, validation
