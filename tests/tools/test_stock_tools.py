"""The configs run under the hosts' own tools, too."""

import os
import subprocess
import sys
from pathlib import Path

import mmdet
import mmseg
import pytest

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / 'configs/digit_scenes'
SMALL = (
    'custom_hooks.0.train=4',
    'custom_hooks.0.val=2',
    'train_dataloader.batch_size=2',
    'train_dataloader.num_workers=0',
    'train_dataloader.persistent_workers=False',
    'val_dataloader.num_workers=0',
    'val_dataloader.persistent_workers=False',
)


@pytest.mark.parametrize(
    'host, name, length, metric, checkpoint',
    [
        (
            mmdet,
            'faster-rcnn_cotnet-26_fpn_digit-scenes.py',
            ['train_cfg.max_epochs=1'],
            'coco/bbox_mAP',
            'epoch_1.pth',
        ),
        (
            mmseg,
            'pspnet_contnet-slim_digit-scenes.py',
            ['train_cfg.max_iters=1', 'train_cfg.val_interval=1'],
            'mIoU',
            'iter_1.pth',
        ),
    ],
    ids=['mmdet', 'mmseg'],
)
def test_train(host, name, length, metric, checkpoint, tmp_path):
    """From nothing: the data is drawn, a model trained and evaluated."""
    tool = Path(host.__file__).parent / '.mim/tools/train.py'
    command = [sys.executable, tool, CONFIGS / name, '--cfg-options']
    done = subprocess.run(
        [*command, *SMALL, *length],
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert metric in done.stdout + done.stderr
    (work_dir,) = (tmp_path / 'work_dirs').iterdir()
    assert (work_dir / checkpoint).exists()
    assert (work_dir / 'gallery.png').exists()
    assert (work_dir / 'curves.png').exists()
