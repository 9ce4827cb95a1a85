"""Small stand-ins for the data sets that the configs name."""

import functools
import gc

import mmdet.apis  # noqa: F401  (imported before gc.freeze)
import mmengine
import mmpretrain.apis  # noqa: F401
import mmseg.apis  # noqa: F401
import pytest

from mmctx.datasets import make_digit_scenes
from tests.helpers.small_data import (
    make_bccd,
    make_cityscapes,
    make_coco,
    make_imagenet,
)


@pytest.fixture(scope='session')
def data_roots(tmp_path_factory):
    """The configs' data roots, each with a small data set in its place."""
    folder = tmp_path_factory.mktemp('data')
    make_imagenet(folder / 'imagenet')
    make_coco(folder / 'coco')
    make_cityscapes(folder / 'cityscapes')
    make_bccd(folder / 'bccd')
    make_digit_scenes(folder / 'digits', 'scenes', train=2, val=2)
    for part in ('classification', 'centered'):
        make_digit_scenes(folder / 'digits', part, train=10, val=10)
    return {
        'data/imagenet': f'{folder}/imagenet',
        'data/coco/': f'{folder}/coco/',
        'data/bccd/': f'{folder}/bccd/',
        'data/cityscapes/': f'{folder}/cityscapes/',
        'data/digit_scenes/scenes/': f'{folder}/digits/scenes/',
        'data/digit_scenes/classification/': f'{folder}/digits/'
        'classification/',
        'data/digit_scenes/centered/': f'{folder}/digits/centered/',
    }


@pytest.fixture(scope='session', autouse=True)
def no_repeated_work():
    """Keeps MMEngine from reading every model index anew for every config.

    Its data sets collect garbage, too: what is loaded by now is frozen.
    """
    utils = mmengine.config.utils
    gc.collect()
    gc.freeze()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, 'load', functools.cache(utils.load))
        yield
    gc.unfreeze()
