"""Upstream OpenMMLab trains, tests and resumes what its line promises."""

import json
import math
import subprocess
import sys
from functools import partial
from importlib.metadata import PackageNotFoundError, version

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.runner.checkpoint import load_from_local

from tests.helpers.scripts import ROOT
from tests.helpers.small_data import make_cityscapes, make_imagenet


def has_upstream():
    """Whether mmengine is upstream's; the maintained one is onedl-mmengine."""
    try:
        return bool(version('mmengine'))
    except PackageNotFoundError:
        return False


pytestmark = pytest.mark.skipif(
    not has_upstream(),
    reason='needs upstream OpenMMLab: '
    'MMCTX_ENV=upstream bash tools/env.sh pytest tests/upstream',
)


def python(*command, cwd):
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        capture_output=True,
        text=True,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    return output


WITHOUT_OPERATORS = """
import importlib.util, torch
from tests.helpers.backbones import TINY, build_tiny
assert importlib.util.find_spec('mmcv._ext') is None
for name in TINY:
    build_tiny(name)(torch.rand(2, 3, 64, 64))[-1].sum().backward()
    print('computed', name)
"""


def test_backbones_need_no_compiled_operator(tmp_path):
    output = python('-c', WITHOUT_OPERATORS, cwd=tmp_path)
    assert output.count('computed') >= 5


def load(path, data):
    """A config on small data, without workers and released weights."""
    cfg = Config.fromfile(ROOT / 'configs' / path)
    cfg.custom_imports.imports.insert(0, 'tests.upstream.standins')
    for split in ('train', 'val', 'test'):
        loader = cfg[f'{split}_dataloader']
        loader.update(batch_size=2, num_workers=0, persistent_workers=False)
        loader.dataset.data_root = str(data)
    return cfg


def steps(cfg):
    """Every step of the pipelines that are used."""
    for split in ('train', 'val', 'test'):
        yield from cfg[f'{split}_dataloader'].dataset.pipeline


def classification(data):
    make_imagenet(data)
    cfg = load('cotnet/cotnet50_8xb64-100e_in1k.py', data)
    cfg.model.backbone.depth = (1, 1, 1, 1)
    cfg.train_cfg.max_epochs = 2
    return cfg


def segmentation(data):
    make_cityscapes(data)
    (path,) = (ROOT / 'configs/contnet').glob('pspnet_cont*.py')
    cfg = load(path, data)
    cfg.model.data_preprocessor.size = (64, 64)
    cfg.model.backbone.update(arch='s', init_cfg=None)
    cfg.model.test_cfg.update(crop_size=(64, 64), stride=(48, 48))
    for step in steps(cfg):
        if 'scale' in step:
            step.scale = (128, 64)
        if 'crop_size' in step:
            step.crop_size = (64, 64)
    cfg.train_cfg.update(max_iters=2, val_interval=2)
    return cfg


def make_clips(root, raw):
    """Two clips per split, as Motion JPEG or as folders of frames."""
    rng = np.random.default_rng(0)
    for split in ('train', 'val'):
        clips = []
        for label in range(2):
            frames = rng.integers(0, 256, (40, 48, 64, 3), np.uint8)
            path = root / split / f'{label}{"" if raw else ".avi"}'
            path.parent.mkdir(parents=True, exist_ok=True)
            clips.append(f'{path.name} {"40 " if raw else ""}{label}')
            if raw:
                path.mkdir()
                for i, frame in enumerate(frames, 1):
                    cv2.imwrite(f'{path}/img_{i:05}.jpg', frame)
            else:
                codec = cv2.VideoWriter_fourcc(*'MJPG')
                video = cv2.VideoWriter(str(path), codec, 25, (64, 48))
                for frame in frames:
                    video.write(frame)
                video.release()
        (root / f'{split}.txt').write_text('\n'.join(clips))


def recognition(data, raw=False):
    make_clips(data, raw)
    cfg = load(
        'contextual_cnn/'
        'tsm_ctx-resnet50_8xb16-dense-1x1x16-100e_kinetics400-rgb.py',
        data,
    )
    cfg.model.backbone.backbone.init_cfg = None
    for split in ('train', 'val', 'test'):
        dataset = cfg[f'{split}_dataloader'].dataset
        folder = 'train' if split == 'train' else 'val'
        del dataset.data_root
        dataset.ann_file = str(data / f'{folder}.txt')
        kind = 'img' if raw else 'video'
        dataset.data_prefix = {kind: str(data / folder)}
        if raw:
            dataset.type = 'RawframeDataset'
            dataset.pipeline = [
                dict(type='RawFrameDecode')
                if step.type == 'DecordDecode'
                else step
                for step in dataset.pipeline
                if step.type != 'DecordInit'
            ]
    for step in steps(cfg):
        if step.type == 'Resize':
            step.scale = (
                (48, 48) if step.get('keep_ratio') is False else (-1, 48)
            )
        for key in ('input_size', 'crop_size'):
            if key in step:
                step[key] = 48
        if step.get('num_sample_positions') == 10:
            step.num_sample_positions = 2
    cfg.train_cfg.max_epochs = 2
    return cfg


def written(folder, pattern):
    """Entries of the last JSON file of this pattern in a work dir."""
    *_, path = sorted(folder.glob(pattern))
    return [json.loads(line) for line in path.read_text().splitlines()]


def iterations(folder):
    """Numbers of the iterations that the last run did; losses are finite."""
    entries = written(folder, '*/vis_data/scalars.json')
    losses = {e['step']: e['loss'] for e in entries if 'loss' in e}
    assert all(map(math.isfinite, losses.values())), losses
    return list(losses)


@pytest.mark.parametrize(
    'make, score',
    [
        pytest.param(classification, 'accuracy/top1', id='classification'),
        pytest.param(segmentation, 'mIoU', id='segmentation'),
        pytest.param(recognition, 'acc/top1', id='videos'),
        pytest.param(
            partial(recognition, raw=True), 'acc/top1', id='raw-frames'
        ),
    ],
)
def test_train_test_resume(make, score, tmp_path):
    cfg = make(tmp_path / 'data')
    cfg.default_hooks.logger.interval = 1
    cfg.default_hooks.checkpoint.interval = 1
    config, folder = tmp_path / 'config.py', tmp_path / 'trained'
    cfg.dump(config)
    train = [ROOT / 'tools/train.py', config, '--work-dir', folder]
    python(*train, cwd=tmp_path)
    assert iterations(folder) == [1, 2]

    (checkpoint,) = folder.glob('[ei]*_2.pth')
    # MMEngine's own reader: what fixes the newest torch of this line
    assert load_from_local(str(checkpoint), 'cpu')['meta']['iter'] == 2
    test = [ROOT / 'tools/test.py', config, checkpoint, '--work-dir']
    output = python(*test, tmp_path / 'tested', cwd=tmp_path)
    assert 'do not match exactly' not in output
    (scores,) = written(tmp_path / 'tested', '*/*.json')
    assert score in scores

    limit = next(key for key in cfg.train_cfg if key.startswith('max_'))
    options = ['--resume', '--cfg-options', f'train_cfg.{limit}=3']
    python(*train, *options, cwd=tmp_path)
    assert iterations(folder) == [3]
