"""The configs run under the hosts' own tools, too."""

import os
import subprocess
import sys
from pathlib import Path

import mmdet

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / 'configs/digit_scenes'
SMALL = (
    'custom_hooks.0.train=4',
    'custom_hooks.0.val=2',
    'train_cfg.max_epochs=1',
    'train_dataloader.batch_size=2',
    'train_dataloader.num_workers=0',
    'train_dataloader.persistent_workers=False',
    'val_dataloader.num_workers=0',
    'val_dataloader.persistent_workers=False',
)


def test_mmdet_train(tmp_path):
    """From nothing: the data is drawn, a detector trained and evaluated."""
    tool = Path(mmdet.__file__).parent / '.mim/tools/train.py'
    config = CONFIGS / 'faster-rcnn_cotnet-26_fpn_digit-scenes.py'
    done = subprocess.run(
        [sys.executable, tool, config, '--cfg-options', *SMALL],
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert 'coco/bbox_mAP' in done.stdout + done.stderr
    (work_dir,) = (tmp_path / 'work_dirs').iterdir()
    assert (work_dir / 'epoch_1.pth').exists()
    assert (work_dir / 'gallery.png').exists()
    assert (work_dir / 'curves.png').exists()
