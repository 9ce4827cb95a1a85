"""The hooks of the DigitScenes configs, in runs of a few iterations."""

import copy

import cv2
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from mmctx.registry import HOOKS

pytest.importorskip('sklearn')


def test_prepare_hook_makes_the_data_when_built(tmp_path):
    config = dict(
        type='PrepareDigitScenes',
        data_root=str(tmp_path),
        part='classification',
        train=10,
        val=10,
        size=32,
    )
    HOOKS.build(copy.deepcopy(config))
    files = sorted(tmp_path.glob('classification/*/*/*.png'))
    assert len(files) == 20
    times = [file.stat().st_mtime_ns for file in files]
    HOOKS.build(copy.deepcopy(config))
    assert [file.stat().st_mtime_ns for file in files] == times
    with pytest.raises(ValueError, match=r"'train': 10.*'train': 11"):
        HOOKS.build({**config, 'train': 11})


def tiny(name, tmp_path, part, **sizes):
    """A shipped config for small data, one epoch and a cheap backbone."""
    config = Config.fromfile(f'configs/digit_scenes/{name}.py')
    data_root = tmp_path / 'data'
    config.merge_from_dict(
        {
            'work_dir': str(tmp_path / 'work'),
            'custom_hooks.0.data_root': str(data_root),
            'default_hooks.logger.interval': 1,
            'default_hooks.gallery.num_images': 3,
            'train_cfg.max_epochs': 1,
            'model.backbone.base_channels': 8,
            'model.backbone.stem_channels': 8,
            'env_cfg.dist_cfg.backend': 'gloo',
            # visualizers are global: a name that no earlier test has used
            'visualizer.name': str(tmp_path),
        }
    )
    config.custom_hooks[0].update(sizes)
    for split in ('train', 'val', 'test'):
        loader = config[f'{split}_dataloader']
        loader.num_workers = 0
        loader.persistent_workers = False
        loader.batch_size = 4
        loader.dataset.data_root = str(data_root / part) + '/'
    return config


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_detection_run_leaves_pictures_and_curves(tmp_path):
    pytest.importorskip('mmdet')
    config = tiny(
        'faster-rcnn_cotnet-26_fpn_digit-scenes',
        tmp_path,
        'scenes',
        train=8,
        val=5,
        size=64,
    )
    ann_file = tmp_path / 'data/scenes/annotations/instances_val.json'
    config.val_evaluator.ann_file = str(ann_file)
    config.model.neck.in_channels = [32, 64, 128, 256]
    runner = Runner.from_cfg(config)
    assert ann_file.is_file()  # drawn before anything reads it
    runner.train()
    work_dir = tmp_path / 'work'
    pictures = sorted((work_dir / 'gallery').iterdir())
    assert [p.name for p in pictures] == [f'00000{i}.png' for i in range(3)]
    # 64 pixels, enlarged to 384; ground truth and prediction; three per row
    assert cv2.imread(str(pictures[0])).shape == (384, 768, 3)
    sheet = cv2.imread(str(work_dir / 'gallery.png'))
    assert sheet.shape == (384, 3 * 768, 3)
    assert (work_dir / 'curves.png').is_file()


def test_classification_run_leaves_pictures_and_curves(tmp_path):
    pytest.importorskip('mmpretrain')
    config = tiny(
        'cotnet-14_digit-scenes',
        tmp_path,
        'classification',
        train=20,
        val=10,
        size=32,
    )
    config.model.head.in_channels = 256
    Runner.from_cfg(config).train()
    assert len(list((tmp_path / 'work' / 'gallery').iterdir())) == 3
    assert (tmp_path / 'work' / 'gallery.png').is_file()
    assert (tmp_path / 'work' / 'curves.png').is_file()
