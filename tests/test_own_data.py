"""The page docs/own_data.md, with photographs drawn here."""

import json
import re
import sys
from pathlib import Path

import mmdet
import pytest
from PIL import Image, ImageDraw

from mmctx.engine import command
from tests.helpers.scripts import ROOT, load_script

PAGE = (ROOT / 'docs/own_data.md').read_text()
CLASSES = ('RBC', 'WBC', 'Platelets')
SHORT = (
    'train_cfg.max_epochs=1',
    'train_dataloader.num_workers=0',
    'train_dataloader.persistent_workers=False',
    'val_dataloader.num_workers=0',
    'val_dataloader.persistent_workers=False',
)


def draw_cells(folder, part, count):
    images, annotations = [], []
    (folder / part).mkdir(parents=True)
    for i in range(count):
        photo = Image.effect_noise((160, 120), 30).convert('RGB')
        for k in range(len(CLASSES)):
            x, y, side = 10 + 45 * k, 20 + 10 * i, 12 + 10 * k
            box = (x, y, x + side, y + side)
            ImageDraw.Draw(photo).ellipse(box, fill=(200, 50 * k, 90))
            annotations.append(
                dict(
                    id=len(annotations) + 1, image_id=i, category_id=k + 1,
                    bbox=[x, y, side, side], area=side**2, iscrowd=0,
                )
            )  # fmt: skip
        name = f'{i}.png'
        photo.save(folder / part / name)
        images.append(dict(id=i, file_name=name, width=160, height=120))
    categories = [dict(id=k + 1, name=n) for k, n in enumerate(CLASSES)]
    content = dict(
        images=images, annotations=annotations, categories=categories
    )
    (folder / f'{part}.json').write_text(json.dumps(content))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """As a user's: data and a config, nothing of the repository."""
    monkeypatch.chdir(tmp_path)
    draw_cells(tmp_path / 'cells', 'train', 5)  # a last batch of one
    draw_cells(tmp_path / 'cells', 'val', 2)
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
        assert set(prediction['classes']) <= set(CLASSES)
