"""tools/train.py and tools/test.py read checkpoints as data."""

import zipfile

import pytest
import torch
from mmengine.runner import CheckpointLoader

from mmctx.engine import cli
from tests.helpers import hostile
from tests.helpers.scripts import ROOT, load_script
from tests.helpers.small_data import make_imagenet

train = load_script('tools/train.py')
test = load_script('tools/test.py')

CONFIG = """
_base_ = {base!r}
model = dict(
    backbone=dict(depth=(1, 1, 1, 1), base_channels=16, stem_channels=16),
    head=dict(in_channels=512))
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(64, 64)),
    dict(type='PackInputs'),
]
loader = dict(batch_size=2, num_workers=0,
              dataset=dict(data_root={data!r}, pipeline=pipeline))
train_dataloader = loader
val_dataloader = loader
test_dataloader = loader
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=6,
                 val_interval=6)
optim_wrapper = dict(_delete_=True, type='OptimWrapper',
                     optimizer=dict(type='AdamW', lr=1e-3))
param_scheduler = [
    dict(type='MultiStepLR', by_epoch=False, milestones=[2, 4])]
default_hooks = dict(
    checkpoint=dict(_delete_=True, type='CheckpointHook', interval=3,
                    by_epoch=False),
    logger=dict(interval=1))
randomness = dict(seed=0)
"""


@pytest.fixture(autouse=True)
def loaders(monkeypatch):
    """MMEngine's own ones return after each test."""
    monkeypatch.setattr(
        CheckpointLoader, '_schemes', dict(CheckpointLoader._schemes)
    )


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp('config')
    make_imagenet(folder / 'data')
    base = str(ROOT / 'configs/cotnet/cotnet50_8xb64-100e_in1k.py')
    content = CONFIG.format(base=base, data=str(folder / 'data'))
    (folder / 'config.py').write_text(content)
    return str(folder / 'config.py')


@pytest.fixture(scope='module')
def whole_run(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp('whole')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            CheckpointLoader, '_schemes', dict(CheckpointLoader._schemes)
        )
        assert run(train, config, '--work-dir', folder) == 0
    return folder


def run(tool, *argv):
    return cli.run(tool.main, [str(a) for a in argv])


def as_numpy_1(path, copy):
    """The checkpoint as MMEngine writes it under NumPy 1."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(copy, 'w') as new:
        for info in old.infolist():
            content = old.read(info)
            if info.filename.endswith('data.pkl'):
                assert b'cnumpy._core.multiarray\n' in content
                content = content.replace(b'cnumpy._core', b'cnumpy.core')
            new.writestr(info.filename, content)


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


@pytest.mark.parametrize('writer', ['as it is', 'numpy 1'])
def test_resumed_training_ends_at_the_same_bits(
    writer, config, whole_run, tmp_path
):
    """3 + 3 iterations through the reader, and 6 without it."""
    checkpoint = whole_run / 'iter_3.pth'
    if writer == 'numpy 1':
        as_numpy_1(checkpoint, tmp_path / 'old.pth')
        checkpoint = tmp_path / 'old.pth'
    folder = tmp_path / 'run'
    argv = [config, '--resume', checkpoint, '--work-dir', folder]
    assert run(train, *argv) == 0
    a, b = (
        torch.load(f / 'iter_6.pth', weights_only=False)
        for f in (whole_run, folder)
    )
    for part in ('state_dict', 'optimizer', 'param_schedulers'):
        assert equal(a[part], b[part]), part
    logs = [c['message_hub']['log_scalars']['train/loss'] for c in (a, b)]
    assert logs[0].data[0].tolist() == logs[1].data[0].tolist()
    assert len(logs[0].data[0]) == 6
    assert a['message_hub']['runtime_info'].keys() == (
        b['message_hub']['runtime_info'].keys()
    )


def test_hostile_files(config, whole_run, tmp_path, capsys):
    """One line, and nothing is run; all files: tests/weights."""
    trace = tmp_path / 'executed'
    files = hostile.files(trace)
    resumable = torch.load(whole_run / 'iter_3.pth', weights_only=False)
    for change in (
        dict(optimizer='text'),
        dict(meta=[1, 2]),
        dict(param_schedulers=[1, 2, 3]),
        dict(message_hub=dict(log_scalars=3)),
    ):
        path = tmp_path / 'changed.pth'
        torch.save({**resumable, **change}, path)
        files[f'changed-{next(iter(change))}.pth'] = path.read_bytes()
    names = [
        'system.zip.pth',
        'exec.pkl',
        'claims-strides.zip.pth',
        'tensor-nan.zip.pth',
        *(name for name in files if 'changed' in name),
    ]
    for name in names:
        path = tmp_path / name
        path.write_bytes(files[name])
        ways = [
            (test, config, path),
            (train, config, '--resume', path),
            (train, config, '--cfg-options', f'load_from={path}'),
        ]
        if 'changed' in name:  # what only --resume uses
            ways = ways[1:2]
        for tool, *argv in ways:
            capsys.readouterr()
            code = run(tool, *argv, '--work-dir', tmp_path / 'work')
            error = capsys.readouterr().err
            assert code == 2 and 'error: ' in error, (name, argv)
            assert 'Traceback' not in error
            assert not trace.exists(), name
