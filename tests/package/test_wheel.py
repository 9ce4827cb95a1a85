"""The package from its wheel alone, in an empty folder, as a user has it."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from tests.helpers.scripts import ROOT

DETECTOR = 'faster-rcnn_cotnet-26_fpn_digit-scenes'
SMALL = [
    '--cfg-options',
    'custom_hooks.0.train=6',
    'custom_hooks.0.val=2',
    'train_cfg.max_epochs=1',
    'train_dataloader.batch_size=2',
    *(f'{x}_dataloader.num_workers=0' for x in ('train', 'val', 'test')),
]


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


@pytest.fixture
def outside(tmp_path_factory):
    """Arguments of processes in an empty folder, away from the checkout."""
    env = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    return dict(cwd=tmp_path_factory.mktemp('empty'), env=env)


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
    names = run(mmctx, 'list', '*cotnet50*', '--task', 'detection', **outside)
    assert 'faster-rcnn_cotnet50' in names
    assert len(run(mmctx, 'list', **outside).split()) > 150
    assert 'cotnet50' in run(mmctx, 'list', '--models', **outside).split()


def test_train_and_test_the_detector_of_the_readme(mmctx, outside):
    run(mmctx, 'train', DETECTOR, *SMALL, **outside)
    work_dir = outside['cwd'] / 'work_dirs' / DETECTOR
    assert (work_dir / 'curves.png').is_file()
    log = run(
        mmctx, 'test', DETECTOR, work_dir / 'epoch_1.pth', *SMALL, **outside
    )
    assert 'coco/bbox_mAP' in log


def test_config_of_the_user_upon_ours(mmctx, outside):
    config = outside['cwd'] / 'mine.py'
    config.write_text(
        f"_base_ = 'mmctx::digit_scenes/{DETECTOR}.py'\n"
        'model = dict(backbone=dict(frozen_stages=1))\n'
    )
    run(mmctx, 'train', config, *SMALL, '--no-validate', **outside)
    assert (outside['cwd'] / 'work_dirs/mine/epoch_1.pth').is_file()


def test_tensorboard(python, mmctx, outside):
    run(*install(python), 'tensorboard==2.21.0')
    flags = ('--no-validate', '--vis', 'tensorboard')
    run(mmctx, 'train', DETECTOR, *flags, *SMALL, **outside)
    assert [*outside['cwd'].glob('work_dirs/**/events.out.tfevents.*')]


def test_mim(python, outside):
    requirements = Path(__file__).with_name('requirements.txt')
    options = ('--no-deps', '--ignore-installed', '-r')
    run(*install(python), *options, requirements)
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
    options = ('--gpus', 0, '--work-dir', 'work', *SMALL)
    run(mim, 'train', 'mmctx', f'{DETECTOR}.py', *options, **outside)
    assert (outside['cwd'] / 'work/epoch_1.pth').is_file()
