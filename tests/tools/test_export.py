"""tools/export.py; tests/package has its files in programs without mmctx."""

import json

import cv2
import numpy as np
import pytest
import torch

from mmctx.engine import cli
from tests.helpers.scripts import load_script

tool = load_script('tools/export.py')
DETECTOR = 'faster-rcnn_cotnet-26_fpn_digit-scenes'
SMALL = ['--cfg-options', 'model.backbone.depth=14']
CLASSIFIER = 'ctx-resnet14_digit-scenes'


def test_a_classifier_with_pictures(tmp_path, capsys):
    picture = str(tmp_path / 'picture.png')
    cv2.imwrite(picture, np.full((40, 50, 3), 90, np.uint8))
    model = tool.configured_model(tool.parse_args([CLASSIFIER]))[0]
    classes = [f'digit {i}' for i in range(10)]
    meta = dict(dataset_meta=dict(classes=classes))
    checkpoint, out = tmp_path / 'epoch.pth', tmp_path / 'classifier.pt'
    torch.save(dict(state_dict=model.state_dict(), meta=meta), checkpoint)
    tool.main([CLASSIFIER, str(checkpoint), '--out', str(out), '--dynamic',
               '--to', 'torchscript', '--shape', '64', '--images',
               picture])  # fmt: skip
    printed = capsys.readouterr().out
    # Five sizes and the picture.
    assert printed.count('1 x 64 x 64: ') == 2
    assert printed.count(' x ') == 2 * 7
    files = {'mmctx.json': ''}
    torch.jit.load(str(out), _extra_files=files)
    facts = json.loads(files['mmctx.json'])
    assert json.loads(facts['classes']) == classes
    assert json.loads(facts['shape']) == ['N', 3, 'H', 'W']
    assert facts['task'] == 'classification'


def test_a_backbone_by_name(tmp_path):
    out = tmp_path / 'backbone.pt'
    tool.main(['coat_lite_tiny', '--to', 'torchscript', '--backbone',
               '--shape', '64', '96', '--out', str(out)])  # fmt: skip
    maps = torch.jit.load(str(out))(torch.rand(1, 3, 64, 96))
    assert [tuple(x.shape[2:]) for x in maps] == [
        (16, 24), (8, 12), (4, 6), (2, 3)
    ]  # fmt: skip


def test_a_model_that_finds_nothing_is_not_called_compared(tmp_path, capsys):
    tool.main([DETECTOR, '--to', 'torchscript', *SMALL,
               'model.test_cfg.rcnn.score_thr=0.99',
               '--out', str(tmp_path / 'detector.pt')])  # fmt: skip
    printed = capsys.readouterr()
    assert 'finds nothing' in printed.out
    assert 'weights are random' in printed.err


@pytest.mark.parametrize(
    'options, message',
    [
        (['--out', 'model.pt'], 'must end in .onnx'),
        (['missing.pth'], 'checkpoint missing.pth does not exist'),
        (['--images', 'missing.png'], 'image missing.png does not exist'),
        (['model.pth'], 'does not fit'),
    ],
)
def test_what_goes_wrong_leaves_nothing(
    options, message, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    torch.save(dict(state_dict={'a': torch.zeros(1)}), 'model.pth')
    if '--images' in options:
        options = [*options, '--to', 'torchscript']
    with pytest.raises((cli.UserError, FileNotFoundError), match=message):
        tool.main([CLASSIFIER, *options, '--shape', '64'])
    assert [p.name for p in tmp_path.iterdir()] == ['model.pth']


def test_wrong_shapes(capsys):
    for shape in (['31'], ['64', '64', '64']):
        with pytest.raises(SystemExit):
            tool.parse_args(['coat_lite_tiny', '--shape', *shape])
        assert 'from 32 on' in capsys.readouterr().err
