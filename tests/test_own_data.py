"""The page docs/own_data.md, with photographs drawn here."""

import json
import re
import sys
from pathlib import Path

import mmdet
import pytest

from mmctx.engine import command
from tests.helpers.scripts import ROOT, load_script
from tests.helpers.small_data import BCCD_CLASSES, make_bccd

PAGE = (ROOT / 'docs/own_data.md').read_text()
SHORT = (
    'train_cfg.max_epochs=1',
    'train_dataloader.num_workers=0',
    'train_dataloader.persistent_workers=False',
    'val_dataloader.num_workers=0',
    'val_dataloader.persistent_workers=False',
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """As a user's: data and a config, nothing of the repository."""
    monkeypatch.chdir(tmp_path)
    make_bccd(tmp_path / 'cells')
    (config,) = re.findall(r'```python\n(.*?)```', PAGE, re.S)
    (tmp_path / 'cells.py').write_text(config)
    return tmp_path


def run(*argv):
    assert command.main([str(a) for a in argv]) == 0


def test_from_looking_to_predictions(folder, monkeypatch, capsys):
    run('config', 'cells.py')
    whole = capsys.readouterr().out
    assert 'digits' not in whole and 'PrepareDigitScenes' not in whole
    (folder / 'whole.py').write_text(whole)
    tool = Path(mmdet.__file__).parent / '.mim/tools/analysis_tools'
    look = load_script(str(tool / 'browse_dataset.py'))
    argv = ['look', 'whole.py', '--not-show', '--output-dir', 'look']
    monkeypatch.setattr(sys, 'argv', argv)
    look.main()
    assert len(list((folder / 'look').iterdir())) == 5
    run('train', 'cells.py', '--cfg-options', *SHORT)
    shown = capsys.readouterr()
    assert 'Platelets' in shown.out + shown.err  # AP by class
    checkpoint = 'work_dirs/cells/epoch_1.pth'
    run('infer', 'cells.py', checkpoint, 'cells/val')
    predictions = json.loads(Path('predictions/predictions.json').read_text())
    assert len(predictions) == 2
    for prediction in predictions:
        assert set(prediction['classes']) <= set(BCCD_CLASSES)
