"""Upstream OpenMMLab trains, tests and resumes what its line promises."""

import importlib
import json
import math
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
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


TSM = sorted((ROOT / 'configs/contextual_cnn').glob('tsm_*.py'))


@pytest.mark.parametrize('path', TSM, ids=lambda path: path.stem)
def test_configs_of_mmaction_build(path):
    importlib.import_module('tests.upstream.standins')
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    with torch.device('meta'):
        assert MODELS.build(cfg.model).cls_head.num_segments == 16


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


def make_clips(root):
    """A clip to train on, as a folder of frames, and one to test, a video."""
    frames = np.random.default_rng(0).integers(0, 256, (40, 48, 64, 3), 'u1')
    (root / 'train/clip').mkdir(parents=True)
    for i, frame in enumerate(frames, 1):
        cv2.imwrite(f'{root}/train/clip/img_{i:05}.jpg', frame)
    (root / 'train.txt').write_text('clip 40 0')
    codec = cv2.VideoWriter_fourcc(*'MJPG')
    video = cv2.VideoWriter(f'{root}/clip.avi', codec, 25, (64, 48))
    for frame in frames:
        video.write(frame)
    video.release()
    (root / 'val.txt').write_text('clip.avi 399')


def recognition(data):
    """TSM on Contextual ResNet-50, all of it, on frames of 48 pixels."""
    make_clips(data)
    cfg = load(TSM[0], data)
    cfg.model.backbone.backbone.init_cfg = None
    train, *others = (
        cfg[f'{split}_dataloader'].dataset
        for split in ('train', 'val', 'test')
    )
    train.type = 'RawframeDataset'
    train.update(ann_file='train.txt', data_prefix=dict(img='train'))
    del train.pipeline[0]  # initialises Decord
    train.pipeline[1].type = 'RawFrameDecode'
    for dataset in others:
        dataset.update(ann_file='val.txt', data_prefix=dict(video=''))
    for step in steps(cfg):
        if step.type == 'Resize':
            step.scale = (48 if step.scale[0] > 0 else -1, 48)
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
        pytest.param(recognition, 'acc/top1', id='video'),
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
