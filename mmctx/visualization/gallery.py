"""Pictures of predictions beside ground truth."""

from pathlib import Path

import mmcv
import numpy as np
import torch
from mmengine.structures import PixelData

__all__ = ['contact_sheet', 'draw_sample']


def draw_sample(
    visualizer, sample, out_file: Path, score_thr: float, min_side: int
) -> None:
    """Draw ground truth (left) and prediction (right) of one image.

    Args:
        visualizer: The visualizer of an mmdet, mmseg or mmpretrain run, with
            ``dataset_meta`` set.
        sample: A data sample with ``img_path``, predictions and, where the
            test pipeline loads annotations, the ground truth.
        out_file (Path): The picture to write.
        score_thr (float): Minimum score of drawn instances.
        min_side (int): Smaller images are enlarged by an integer factor until
            their short side has this many pixels, so that labels can be read.
    """
    image = mmcv.imread(sample.img_path, channel_order='rgb')
    factor = max(1, -(-min_side // min(image.shape[:2])))
    image = image.repeat(factor, 0).repeat(factor, 1)
    sample = sample.cpu()
    if hasattr(visualizer, 'visualize_cls'):
        visualizer.visualize_cls(image, sample, out_file=str(out_file))
        return
    options = {}
    if 'pred_instances' in sample:
        options['pred_score_thr'] = score_thr
    visualizer.add_datasample(
        out_file.stem,
        image,
        _enlarged(sample, factor),
        out_file=str(out_file),
        **options,
    )


def _enlarged(sample, factor: int):
    """The sample of an enlarged image."""
    sample = sample.clone()
    for name in ('gt_instances', 'pred_instances'):
        instances = getattr(sample, name, None)
        if instances is None:
            continue
        boxes = getattr(instances.bboxes, 'tensor', instances.bboxes)
        instances.bboxes = boxes * factor
        if 'masks' in instances:
            masks = instances.masks
            if hasattr(masks, 'to_ndarray'):
                masks = masks.to_ndarray()
            instances.masks = _repeated(torch.as_tensor(masks), factor)
    for name in ('gt_sem_seg', 'pred_sem_seg'):
        maps = getattr(sample, name, None)
        if maps is not None:
            larger = {k: _repeated(v, factor) for k, v in maps.items()}
            setattr(sample, name, PixelData(**larger))
    return sample


def _repeated(maps: torch.Tensor, factor: int) -> torch.Tensor:
    """Class maps (..., H, W) with every pixel repeated in both directions."""
    maps = maps.repeat_interleave(factor, -1)
    return maps.repeat_interleave(factor, -2)


def contact_sheet(files: list, out_file: Path, columns: int = 3) -> None:
    """Put pictures into one, in rows; each gets the first one's size."""
    first = mmcv.imread(files[0])
    size = first.shape[1::-1]
    tiles = [mmcv.imresize(mmcv.imread(file), size) for file in files]
    tiles += [np.full_like(first, 255)] * (-len(tiles) % columns)
    rows = [
        np.concatenate(tiles[start : start + columns], 1)
        for start in range(0, len(tiles), columns)
    ]
    mmcv.imwrite(np.concatenate(rows), str(out_file))
