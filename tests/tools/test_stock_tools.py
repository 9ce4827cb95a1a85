"""The configs run under the OpenMMLab libraries' own tools, too."""

import os
import subprocess
import sys
from pathlib import Path

import mmdet
import mmseg
import pytest
import torch
from mmdet.apis import DetInferencer
from mmengine.config import Config
from mmengine.registry import init_default_scope
from PIL import Image

from mmctx.datasets.digit_scenes import make_digit_scenes
from tests.helpers.photographs import write_photographs
from tests.helpers.scripts import load_script

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / 'configs/digit_scenes'
SMALL = (
    'custom_hooks.0.train=4',
    'custom_hooks.0.val=2',
    'train_dataloader.batch_size=2',
)
#: Without worker processes.
LOADING = [
    f'{part}_dataloader.{option}'
    for part in ('train', 'val', 'test')
    for option in ('num_workers=0', 'persistent_workers=False')
]


@pytest.mark.parametrize(
    'library, name, length, metric, checkpoint',
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
def test_train(library, name, length, metric, checkpoint, tmp_path):
    """From nothing: the data is drawn, a model trained and evaluated."""
    tool = Path(library.__file__).parent / '.mim/tools/train.py'
    command = [sys.executable, tool, CONFIGS / name, '--cfg-options']
    done = subprocess.run(
        [*command, *SMALL, *LOADING, *length],
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


@pytest.fixture
def detector(tmp_path, monkeypatch):
    """A config and a checkpoint of an untrained detector, and its data."""
    monkeypatch.chdir(tmp_path)
    make_digit_scenes('data/digit_scenes', 'scenes', train=4, val=2)
    config = CONFIGS / 'faster-rcnn_cotnet-26_fpn_digit-scenes.py'
    cfg = Config.fromfile(config)
    init_default_scope('mmdet')
    model = mmdet.registry.MODELS.build(cfg.model)
    meta = cfg.train_dataloader.dataset.metainfo.to_dict()
    torch.save(
        dict(
            state_dict=model.state_dict(),
            # a plain dict, as MMEngine saves
            meta=dict(dataset_meta=meta),
        ),
        'model.pth',
    )
    return str(config), 'model.pth'


def test_inferencer_on_photographs(detector, tmp_path):
    """In one batch, whatever their sizes."""
    sizes = write_photographs(tmp_path / 'photos')
    inferencer = DetInferencer(*detector, device='cpu', show_progress=False)
    results = inferencer(
        [str(tmp_path / 'photos' / name) for name in sizes],
        batch_size=4,
        out_dir='out',
    )
    assert len(results['predictions']) == 4
    drawn = {p.name: Image.open(p).size for p in Path('out/vis').iterdir()}
    assert drawn == sizes


def test_analysis_tools_of_mmdet(detector, monkeypatch):
    config, checkpoint = detector
    tools = Path(mmdet.__file__).parent / '.mim/tools'

    def call(name, *argv):
        options = [*LOADING, *SMALL[:2]]
        command = [name, config, *argv, '--cfg-options', *options]
        monkeypatch.setattr(sys, 'argv', command)
        load_script(str(tools / name)).main()

    call('test.py', checkpoint, '--out', 'results.pkl')
    call('analysis_tools/confusion_matrix.py', 'results.pkl', 'confusion')
    call('analysis_tools/analyze_results.py', 'results.pkl', 'analysed')
    call('analysis_tools/browse_dataset.py', '--not-show', '--output-dir', 'b')
    assert Path('confusion/confusion_matrix.png').exists()
    assert list(Path('analysed').rglob('good/*'))
    assert list(Path('b').iterdir())
