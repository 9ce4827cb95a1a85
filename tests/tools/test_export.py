"""tools/export.py, and its files in programs that know nothing of mmctx."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch

import mmctx
from mmctx.engine import cli
from mmctx.engine.export.check import compare
from mmctx.engine.export.networks import build
from tests.helpers.scripts import load_script

tool = load_script('tools/export.py')
DETECTOR = 'faster-rcnn_cotnet-26_fpn_digit-scenes'
SMALL = ['--cfg-options', 'model.backbone.depth=14']
CLASSIFIER = 'ctx-resnet14_digit-scenes'
#: What docs/export.md shows.
PROGRAM = """
import json, sys
import numpy, onnxruntime

session = onnxruntime.InferenceSession(sys.argv[1])
facts = session.get_modelmeta().custom_metadata_map
outputs = session.run(None, {'images': numpy.load(sys.argv[2])})
assert not {'mmctx', 'torch', 'mmdet'} & set(sys.modules)
numpy.savez(sys.argv[3], *outputs)
print(json.dumps(facts))
"""


def save_checkpoint(model, path, **meta):
    state = dict(state_dict=model.state_dict(), meta=meta)
    torch.save(state, path)
    return str(path)


def random_model(name, options=()):
    args = tool.parse_args([name, *options])
    torch.manual_seed(0)
    return tool.configured_model(args)[0]


def test_a_detector_runs_without_mmctx(tmp_path):
    pytest.importorskip('onnxruntime')
    model = random_model(DETECTOR, SMALL)
    classes = [f'digit {i}' for i in range(10)]
    checkpoint = save_checkpoint(
        model, tmp_path / 'epoch.pth', dataset_meta=dict(classes=classes)
    )
    path, images = tmp_path / 'detector.onnx', tmp_path / 'images.npy'
    tool.main([DETECTOR, checkpoint, '--out', str(path), *SMALL,
               '--preprocess', 'bgr'])  # fmt: skip
    assert [p.name for p in tmp_path.glob('*.onnx')] == ['detector.onnx']

    bgr = np.random.default_rng(0).integers(
        256, size=(1, 3, 128, 128), dtype=np.uint8
    )
    np.save(images, bgr)
    done = subprocess.run(
        [sys.executable, '-I', '-c', PROGRAM, path, images,
         tmp_path / 'out.npz'],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert json.loads(facts['classes']) == classes
    assert json.loads(facts['shape']) == [1, 3, 128, 128]
    assert json.loads(facts['mean']) == pytest.approx(
        [123.675, 116.28, 103.53]
    )
    assert json.loads(facts['outputs']) == ['boxes', 'scores', 'labels']
    assert facts['channels'] == 'bgr'
    assert facts['task'] == 'detection'
    assert facts['mmctx'] == mmctx.__version__

    with np.load(tmp_path / 'out.npz') as file:
        outputs = [torch.from_numpy(file[name]) for name in file.files]
    assert [tuple(x.shape) for x in outputs] == [
        (1, 100, 4),
        (1, 100),
        (1, 100),
    ]
    # By mmdet's preprocessor, and as mmdet predicts.
    data = dict(inputs=[torch.from_numpy(bgr[0])], data_samples=None)
    x = model.data_preprocessor(data, False)['inputs']
    difference, boxes = compare(model, build(model), x, outputs)
    assert difference < 1e-3
    assert boxes > 20


def test_a_classifier_with_pictures(tmp_path, capsys):
    picture = str(tmp_path / 'picture.png')
    cv2.imwrite(picture, np.full((40, 50, 3), 90, np.uint8))
    out = tmp_path / 'classifier.pt'
    tool.main([CLASSIFIER, '--to', 'torchscript', '--dynamic', '--shape', '64',
               '--out', str(out), '--images', picture])  # fmt: skip
    printed = capsys.readouterr()
    assert 'weights are random' in printed.err
    # Five sizes and the picture.
    assert printed.out.count('1 x 64 x 64: ') == 2
    assert printed.out.count(' x ') == 2 * 7
    files = {'mmctx.json': ''}
    torch.jit.load(str(out), _extra_files=files)
    facts = json.loads(files['mmctx.json'])
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
    assert 'finds nothing' in capsys.readouterr().out


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
