"""The package from its wheel alone, in an empty folder, as a user has it."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import cv2
import numpy as np
import pytest
import sklearn.datasets
import torch

from mmctx.engine.export.check import match
from tests.helpers.scripts import ROOT
from tests.helpers.small_data import make_bccd

DETECTOR = 'faster-rcnn_cotnet-26_fpn_digit-scenes'
SMALL = [
    '--cfg-options',
    'custom_hooks.0.train=6',
    'custom_hooks.0.val=2',
    'train_cfg.max_epochs=1',
    'train_dataloader.batch_size=2',
    *(f'{x}_dataloader.num_workers=0' for x in ('train', 'val', 'test')),
    # Else proposals score alike, and rounding decides which NMS keeps.
    'model.rpn_head.init_cfg.type=Normal',
    'model.rpn_head.init_cfg.layer=Conv2d',
    'model.rpn_head.init_cfg.std=0.2',
]
ALL_BOXES = ('--cfg-options', 'model.test_cfg.rcnn.score_thr=0')
CHECKPOINT = f'work_dirs/{DETECTOR}/epoch_1.pth'
RESIZED = '{}.png'
PHOTOGRAPHS = ('china.jpg', 'flower.jpg')
ABSENT = """
import importlib.util

for name in ('mmctx', 'mmdet', 'mmcv', 'mmengine', 'torch', 'torchvision'):
    assert importlib.util.find_spec(name) is None, name
"""
SAVE = """
import numpy

numpy.savez('outputs.npz', boxes=boxes, scores=scores, labels=labels)
with open('facts.json', 'w') as file:
    json.dump(facts, file)
"""


def run(*command, **kwargs):
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        **kwargs,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def install(python):
    return python, '-m', 'pip', 'install', '-q'


@pytest.fixture(scope='module')
def built(tmp_path_factory):
    """Folder with the sdist, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp('dist')
    checkout = folder / 'checkout'
    shutil.copytree(
        ROOT,
        checkout,
        symlinks=True,
        ignore=shutil.ignore_patterns('.git', 'work_dirs', 'data', '*_cache'),
    )
    build = 'from setuptools.build_meta import build_{0} as b; b("{1}")'
    run(sys.executable, '-c', build.format('sdist', folder), cwd=checkout)
    (sdist,) = folder.glob('*.tar.gz')
    with tarfile.open(sdist) as file:
        file.extractall(folder / 'sdist', filter='data')
    (unpacked,) = (folder / 'sdist').iterdir()
    run(sys.executable, '-c', build.format('wheel', folder), cwd=unpacked)
    return folder


@pytest.fixture(scope='module')
def python(built, tmp_path_factory):
    """Interpreter of an environment with the stack and the wheel alone."""
    folder = tmp_path_factory.mktemp('venv')
    run(sys.executable, '-m', 'venv', '--without-pip', folder)
    python = folder / 'bin/python'
    (site,) = folder.glob('lib/*/site-packages')
    (site / 'stack.pth').write_text(sysconfig.get_path('purelib'))
    (wheel,) = built.glob('*.whl')
    options = ('--no-deps', '--no-index', '--ignore-installed')
    run(*install(python), *options, wheel)
    return python


@pytest.fixture(scope='module')
def mmctx(python):
    return python.parent / 'mmctx'


def empty_folder(factory):
    """Arguments of processes in an empty folder, away from the checkout."""
    env = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    return dict(cwd=factory.mktemp('empty'), env=env)


@pytest.fixture
def outside(tmp_path_factory):
    return empty_folder(tmp_path_factory)


@pytest.fixture(scope='module')
def trained(mmctx, tmp_path_factory):
    """A folder with the README's detector after three iterations."""
    outside = empty_folder(tmp_path_factory)
    run(mmctx, 'train', DETECTOR, *SMALL, **outside)
    return outside


@pytest.fixture(scope='module')
def predictions(mmctx, trained):
    """What `mmctx infer` finds, all boxes, by picture.

    Pictures are two photographs, and the same as the exported file takes them.
    """
    folder = Path(sklearn.datasets.__file__).parent / 'images'
    for name in PHOTOGRAPHS:
        shutil.copy(folder / name, trained['cwd'])
        picture = cv2.resize(cv2.imread(str(folder / name)), (128, 128))
        cv2.imwrite(str(trained['cwd'] / RESIZED.format(name)), picture)
    names = [*PHOTOGRAPHS, *map(RESIZED.format, PHOTOGRAPHS)]
    options = ('--score-thr', 0, *ALL_BOXES)
    run(mmctx, 'infer', DETECTOR, CHECKPOINT, *names, *options, **trained)
    path = trained['cwd'] / 'predictions/predictions.json'
    predictions = {p['file']: p for p in json.loads(path.read_text())}
    assert list(predictions) == names
    return predictions


@pytest.fixture(scope='module')
def elsewhere(tmp_path_factory):
    """Interpreter of an environment that knows nothing of PyTorch."""
    folder = tmp_path_factory.mktemp('elsewhere')
    run(sys.executable, '-m', 'venv', '--without-pip', folder)
    (site,) = folder.glob('lib/*/site-packages')
    for name in ('numpy', 'cv2', 'opencv_python', 'onnxruntime'):
        stack = Path(sysconfig.get_path('purelib'))
        for package in (*stack.glob(name), *stack.glob(f'{name}*.libs')):
            (site / package.name).symlink_to(package)
    return folder / 'bin/python'


def test_wheel_and_sdist_are_whole(built):
    (wheel,) = built.glob('*.whl')
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
        (metadata,) = (n for n in names if n.endswith('.dist-info/METADATA'))
        metadata = Parser().parsestr(file.read(metadata).decode())
    tracked = run('git', 'ls-files', 'configs', 'tools', cwd=ROOT).split()
    left_out = {'tools/env.sh'}
    expected = {
        f'mmctx/.mim/{name}' for name in tracked if name not in left_out
    }
    assert expected <= names
    assert {'mmctx/.mim/model-index.yml', 'mmctx/py.typed'} <= names
    assert not [name for name in names if name.startswith('tests')]
    assert metadata['License-Expression'] == 'Apache-2.0'
    assert metadata['Author'] and metadata.get_all('Classifier')


def test_list(mmctx, outside):
    names = run(mmctx, 'list', **outside).split()
    assert len(names) > 150 and DETECTOR in names
    assert 'cotnet50' in run(mmctx, 'list', '--models', **outside).split()


def test_the_detector_of_the_readme(trained):
    work_dir = (trained['cwd'] / CHECKPOINT).parent
    assert (work_dir / 'curves.png').is_file()
    (log,) = work_dir.glob('*/*.log')
    assert 'coco/bbox_mAP' in log.read_text()


def test_predictions_for_photographs(predictions, trained):
    for name, prediction in predictions.items():
        picture, drawn = (
            cv2.imread(str(trained['cwd'] / folder / name))
            for folder in ('', 'predictions')
        )
        assert drawn.shape == picture.shape
        assert (drawn != picture).any()
        boxes = np.array(prediction['boxes'])
        assert len(boxes) > 20
        assert (boxes >= 0).all()
        assert (boxes <= np.tile(picture.shape[1::-1], 2)).all()


def test_context_of_a_photograph(mmctx, predictions, trained):
    argv = (DETECTOR, CHECKPOINT, PHOTOGRAPHS[0], '--at', '320,200')
    run(mmctx, 'visualize', *argv, **trained)
    drawn = cv2.imread(str(trained['cwd'] / 'context/context_320_200.png'))
    assert drawn.std() > 10


def test_exported_detector_elsewhere(mmctx, predictions, trained, elsewhere):
    """The program of docs/export.md finds what `mmctx infer` finds."""
    folder = trained['cwd']
    options = ('--preprocess', 'bgr', '--out', 'detector.onnx', *ALL_BOXES)
    run(mmctx, 'export', DETECTOR, CHECKPOINT, *options, **trained)
    page = (ROOT / 'docs/export.md').read_text()
    program = re.search('```python\n(.*?)```', page, re.S)[1]
    for name in PHOTOGRAPHS:
        shutil.copy(folder / name, folder / 'picture.jpg')
        run(elsewhere, '-I', '-c', ABSENT + program + SAVE, **trained)
        with np.load(folder / 'outputs.npz') as file:
            actual = {k: torch.from_numpy(file[k][0]) for k in file}
        prediction = predictions[RESIZED.format(name)]
        prediction['labels'] = [int(x) for x in prediction['classes']]
        expected = {k: torch.tensor(prediction[k]) for k in actual}
        assert match(actual, expected, side=128, is_full=True) < 1e-3
    facts = json.loads((folder / 'facts.json').read_text())
    assert facts['task'] == 'detection' and facts['channels'] == 'bgr'
    assert json.loads(facts['shape']) == [1, 3, 128, 128]
    assert json.loads(facts['classes']) == list('0123456789')
    assert json.loads(facts['mean']) == pytest.approx(
        [123.675, 116.28, 103.53]
    )


def test_the_page_on_your_own_data(python, outside):
    """Every command of docs/own_data.md, on photographs drawn here."""
    page = (ROOT / 'docs/own_data.md').read_text()
    (config,) = re.findall('```python\n(.*?)```', page, re.S)
    (commands,) = re.findall('```bash\n(.*?)```', page, re.S)
    folder = outside['cwd']
    make_bccd(folder / 'cells')
    (folder / 'cells.py').write_text(
        f'{config}train_cfg = dict(max_epochs=1)\n'
        'for loader in (train_dataloader, val_dataloader):\n'
        '    loader.update(num_workers=0, persistent_workers=False)\n'
        'del loader\n'
    )
    path = f'{python.parent}{os.pathsep}{outside["env"]["PATH"]}'
    outside['env'] = dict(outside['env'], PATH=path)
    commands = commands.replace('epoch_5', 'epoch_1')
    printed = run('bash', '-ec', commands, **outside)
    assert 'digits' not in (folder / 'whole.py').read_text()
    assert len(list((folder / 'look').iterdir())) == 5
    assert '| Platelets' in printed  # AP by class
    assert list((folder / 'errors').iterdir())
    predictions = folder / 'predictions/predictions.json'
    predictions = json.loads(predictions.read_text())
    assert len(predictions) == 2


def test_mim_and_tensorboard(python, outside):
    requirements = Path(__file__).with_name('requirements.txt')
    options = ('--no-deps', '--ignore-installed', '-r')
    run(*install(python), *options, requirements)
    run(*install(python), 'tensorboard==2.21.0')
    mim = python.parent / 'mim'
    # It starts the tools with the first `python` there is.
    path = f'{python.parent}{os.pathsep}{outside["env"]["PATH"]}'
    outside['env'] = dict(outside['env'], PATH=path)
    assert 'mmctx' in run(mim, 'list', **outside)
    name = 'cotnet50_8xb64-100e_in1k'
    assert '22222416' in run(
        mim, 'search', 'mmctx', '--config', name, **outside
    )
    run(mim, 'download', 'mmctx', '--config', name, '--dest', '.', **outside)
    assert (outside['cwd'] / f'{name}.py').is_file()
    options = ('--gpus', 0, '--work-dir', 'work', '--vis', 'tensorboard')
    run(mim, 'train', 'mmctx', f'{DETECTOR}.py', *options, *SMALL, **outside)
    assert (outside['cwd'] / 'work/epoch_1.pth').is_file()
    assert [*outside['cwd'].glob('work/**/events.out.tfevents.*')]
