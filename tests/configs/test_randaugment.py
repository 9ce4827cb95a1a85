"""The policy list of CoTNet's RandAugment."""

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.registry import TRANSFORMS

from tests.helpers.scripts import ROOT

SIDES = (224, 256, 320)


def randaugment(side):
    cfg = Config.fromfile(
        ROOT / f'configs/_base_/datasets/imagenet_bs64_randaug-m15_{side}.py'
    )
    (step,) = (
        step for step in cfg.train_pipeline if step.type == 'RandAugment'
    )
    assert step in cfg.train_dataloader.dataset.pipeline
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return TRANSFORMS.build(step)


@pytest.mark.parametrize('side', SIDES)
def test_every_operation_runs(side):
    operations = randaugment(side).transforms
    assert len(operations) == 16
    image = np.random.default_rng(0).integers(
        0, 256, (side, side, 3), dtype=np.uint8
    )
    for operation in operations:
        assert operation.prob == 0.5
        operation.prob = 1
        out = operation(dict(img=image.copy()))['img']
        assert out.shape == image.shape and out.dtype == np.uint8


@pytest.mark.parametrize('side', SIDES)
def test_top_strength_is_one_and_a_half_times_the_usual(side):
    top = {}
    for operation in randaugment(side).transforms:
        if operation.magnitude_range:
            values = [operation.random_magnitude() for _ in range(400)]
            # about half of the draws are above 15 and cut off there
            assert 0.2 < np.mean(np.equal(values, max(values))) < 0.8
            top[type(operation).__name__] = max(values)
    assert top.pop('Translate') * side == pytest.approx(150)
    assert top == pytest.approx(
        dict(
            Rotate=1.5 * 30,
            Posterize=1.5 * 4,
            Solarize=1.5 * 256,
            SolarizeAdd=1.5 * 110,
            ColorTransform=0.1 + 1.5 * 1.8 - 1,
            Contrast=0.1 + 1.5 * 1.8 - 1,
            Brightness=0.1 + 1.5 * 1.8 - 1,
            Sharpness=0.1 + 1.5 * 1.8 - 1,
            Shear=1.5 * 0.3,
            # 40 on each side of the centre
            Cutout=1.5 * 2 * 40,
        )
    )


def test_a_quarter_of_the_image_is_cut_out():
    """On average; what is uncovered has the mean colour."""
    (cutout,) = (
        operation
        for operation in randaugment(224).transforms
        if type(operation).__name__ == 'Cutout'
    )
    cutout.prob = 1
    np.random.seed(0)
    black = np.zeros((224, 224, 3), np.uint8)
    images = np.stack([cutout(dict(img=black))['img'] for _ in range(100)])
    cut = images.any(-1)
    assert cut.mean() == pytest.approx(0.244, rel=0.05)
    assert (images[cut] == (104, 116, 124)).all()


@pytest.mark.parametrize('side', SIDES)
def test_geometric_operations_are_bicubic_and_fill_with_the_mean(side):
    geometric = [
        operation
        for operation in randaugment(side).transforms
        if type(operation).__name__ in ('Rotate', 'Shear', 'Translate')
    ]
    assert len(geometric) == 5
    for operation in geometric:
        assert operation.interpolation == 'bicubic'
        assert tuple(operation.pad_val) == (104, 116, 124)
