"""The notebooks under docs/, on small data."""

import os
from pathlib import Path

import cv2
import pytest

from tests.helpers.notebooks import run_notebook
from tests.helpers.scripts import ROOT
from tests.helpers.small_data import make_bccd

BCCD = Path(os.environ.get('MMCTX_BCCD', ROOT.parent / 'shared/data/bccd'))
SHORT = {
    'train_cfg.max_epochs': 1,
    'train_dataloader.batch_size': 2,
    **{
        f'{phase}_dataloader.{key}': value
        for phase in ('train', 'val', 'test')
        for key, value in (('num_workers', 0), ('persistent_workers', False))
    },
}


@pytest.fixture(autouse=True)
def without_windows(monkeypatch):
    monkeypatch.setenv('MPLBACKEND', 'Agg')


def test_predict_and_look(tmp_path):
    options = {'custom_hooks.0.train': 4, 'custom_hooks.0.val': 2}
    run_notebook(
        'predict_and_look', tmp_path, OPTIONS={**SHORT, **options}, SCORE=0.0
    )
    assert len(list((tmp_path / 'drawn').iterdir())) == 2
    assert cv2.imread(str(tmp_path / 'context.png')).std() > 10


def test_export_and_run(tmp_path):
    pytest.importorskip('onnxruntime')
    printed = run_notebook('export_and_run', tmp_path)
    assert 'task: classification' in printed
    assert 'ms a picture' in printed


def test_own_data(tmp_path):
    """On the photographs of BCCD, if they are there."""
    if BCCD.is_dir():
        (tmp_path / 'cells').symlink_to(BCCD)
    else:
        make_bccd(tmp_path / 'cells', train=4, val=2)
    few = {f'{p}_dataloader.dataset.indices': 4 for p in ('train', 'val')}
    # Else proposals score alike, and rounding decides which NMS keeps.
    spread = dict(type='Normal', layer='Conv2d', std=0.2)
    options = {**SHORT, **few, 'model.rpn_head.init_cfg': spread}
    printed = run_notebook('own_data', tmp_path, OPTIONS=options)
    assert "('RBC', 'WBC', 'Platelets')" in printed
    assert '| Platelets' in printed  # AP by class
    assert (tmp_path / 'own.pt').is_file()
