"""A fixed fraction of every class of a classification data set."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable

from mmengine.dataset import BaseDataset

from mmctx.registry import DATASETS, register

__all__ = ['build_stratified_subset', 'stratified_indices']


@register(DATASETS, 'StratifiedSubset')
def build_stratified_subset(
    dataset: dict, fraction: float, seed: int = 0
) -> BaseDataset:
    """A classification data set with a fraction of the images of each class.

    The choice depends only on ``seed`` and the file names: it is the same on
    every rank and machine, however the files are listed. A smaller fraction is
    a subset of a larger one.

    Args:
        dataset (dict): Config of a data set of mmpretrain with one label per
            image, such as ``dict(type='ImageNet', ...)``.
        fraction (float): More than 0, at most 1. Of n images of a class,
            ``round(fraction * n)`` are kept, and at least one.
        seed (int): Other seeds choose other images. Defaults to 0.

    Returns:
        BaseDataset: The data set itself, with fewer images.

    Raises:
        ValueError: ``fraction`` is out of range, or an image has no label or
            no path.
    """
    if not 0 < fraction <= 1:
        raise ValueError(
            'fraction must be more than 0 and at most 1, such as 0.1 for a '
            f'tenth of the images of each class; got {fraction!r}.'
        )
    built = DATASETS.build(dataset)
    samples = (built.get_data_info(i) for i in range(len(built)))
    built.get_subset_(stratified_indices(samples, fraction, seed))
    return built


def stratified_indices(
    samples: Iterable[dict], fraction: float, seed: int
) -> list[int]:
    """Indices, in ascending order, of the samples to keep.

    Args:
        samples (Iterable[dict]): Each with ``img_path`` and ``gt_label``.
        fraction (float): Above 0, at most 1.
        seed (int): Seed of the order within a class.

    Raises:
        ValueError: A sample lacks one of the two keys.
    """
    classes = defaultdict(list)
    for index, sample in enumerate(samples):
        if not {'img_path', 'gt_label'} <= set(sample):
            raise ValueError(
                'StratifiedSubset needs a data set whose samples have '
                f"'img_path' and 'gt_label', got a sample with "
                f'{sorted(sample)}.'
            )
        path = sample['img_path']
        classes[sample['gt_label']].append((_rank(path, seed), path, index))
    return sorted(
        index
        for members in classes.values()
        for *_, index in sorted(members)[: _size(len(members), fraction)]
    )


def _rank(path: str, seed: int) -> bytes:
    """Sort key of an image: pseudo-random but reproducible."""
    name = os.path.basename(path)
    return hashlib.sha256(f'{seed}/{name}'.encode()).digest()


def _size(count: int, fraction: float) -> int:
    return max(round(fraction * count), 1)
