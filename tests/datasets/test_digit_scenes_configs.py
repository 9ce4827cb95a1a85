"""The shipped data set configs read DigitScenes with stock classes."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope

from mmctx.datasets import make_digit_scenes

pytest.importorskip('sklearn')

BASES = {
    'detection': 'mmdet',
    'instance': 'mmdet',
    'segmentation': 'mmseg',
    'classification': 'mmpretrain',
    'two-views': 'mmpretrain',
}
TWO_VIEWS = ('two-views', 'train')


@pytest.fixture(scope='module')
def data_root(tmp_path_factory):
    root = tmp_path_factory.mktemp('digit_scenes')
    make_digit_scenes(root, 'scenes', train=3, val=2)
    make_digit_scenes(root, 'classification', train=20, val=10)
    make_digit_scenes(root, 'centered', train=20, val=10)
    return root


@pytest.mark.parametrize('split', ['train', 'val', 'test'])
@pytest.mark.parametrize('task', BASES)
def test_dataset_config(data_root, task, split):
    pytest.importorskip(f'{BASES[task]}.datasets')
    config = Config.fromfile(f'configs/_base_/datasets/digit_scenes_{task}.py')
    (hook,) = config.custom_hooks
    part = data_root / hook['part']
    assert config.data_root == f'{hook["data_root"]}/{hook["part"]}/'
    dataset = config[f'{split}_dataloader'].dataset
    dataset.data_root = f'{part}/'
    with DefaultScope.overwrite_default_scope(BASES[task]):
        dataset = DATASETS.build(dataset)
        item = dataset[0]
    if BASES[task] == 'mmpretrain':
        views = [64, 64] if (task, split) == TWO_VIEWS else [64]
        inputs = item['inputs']
        inputs = [inputs] if isinstance(inputs, torch.Tensor) else inputs
        assert [x.shape for x in inputs] == [(3, side, side) for side in views]
        sample = item['data_samples']
        folder = Path(sample.img_path).parent.name
        assert sample.gt_label.item() == int(folder)
        return
    assert item['inputs'].shape == (3, 128, 128)
    sample = item['data_samples']
    if task == 'segmentation':
        classes = sample.gt_sem_seg.data.unique()
        assert classes[0] == 0
        assert 1 <= classes[1:].min() <= classes.max() <= 10
    else:
        instances = sample.gt_instances
        assert 2 <= len(instances) <= 5
        assert ('masks' in instances) == (task == 'instance')
