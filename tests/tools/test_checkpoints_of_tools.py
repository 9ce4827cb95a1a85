"""tools/train.py and tools/test.py read checkpoints as data."""

import gc
import io
import zipfile
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
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
    (folder / 'upon_ours.py').write_text(content)
    # Whole, since looking up the bases again takes a fifth of a run.
    Config.fromfile(folder / 'upon_ours.py').dump(folder / 'config.py')
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


def damaged(checkpoint):
    """Checkpoints with a part that only --resume reads, which is no such."""
    content = torch.load(checkpoint, weights_only=False)
    for change in (
        dict(optimizer='text'),
        dict(meta=[1, 2]),
        dict(param_schedulers=[1, 2, 3]),
        dict(message_hub=dict(log_scalars=3)),
    ):
        file = io.BytesIO()
        torch.save({**content, **change}, file)
        yield f'damaged-{next(iter(change))}.pth', file.getvalue()


def one_of_each_kind(files):
    """Hostile files whose name differs in more than the format."""
    kinds = {name.partition('.')[0]: name for name in files}
    return {name: files[name] for name in kinds.values()}


WAYS = {
    'test': (test, '{}'),
    'resume': (train, '--resume', '{}'),
    'load_from': (train, '--cfg-options', 'load_from={}'),
}


@pytest.mark.parametrize('way', WAYS)
def test_hostile_files(way, config, whole_run, tmp_path, capsys, monkeypatch):
    """One file of each kind; all formats of them: tests/weights."""
    if not Path('/proc/self/clear_refs').exists():
        pytest.skip('the peak of memory is measured on Linux')
    trace = tmp_path / 'executed'
    files = one_of_each_kind(hostile.files(trace))
    assert len(files) >= 60
    if way == 'resume':
        files.update(damaged(whole_run / 'iter_3.pth'))
    methods = dict(HistoryBuffer._statistics_methods)
    path = tmp_path / 'checkpoint'
    tool, *argv = WAYS[way]
    argv = [config, *(arg.format(path) for arg in argv)]
    argv += ['--work-dir', tmp_path / 'work']
    path.write_bytes(b'')
    assert run(tool, *argv) == 2  # a first runner keeps memory
    # What else takes long: MMEngine lays the code of each config out, twice,
    # and every data set collects garbage.
    monkeypatch.setattr(
        'yapf.yapflib.yapf_api.FormatCode', lambda text, **_: (text, True)
    )
    gc.freeze()
    for name, content in files.items():
        path.write_bytes(content)
        capsys.readouterr()
        codes = []
        result = hostile.measure(
            lambda _, codes=codes: codes.append(run(tool, *argv)), str(path)
        )
        error = capsys.readouterr().err
        assert codes == [2] and 'error: ' in error, (name, result)
        assert 'Traceback' not in error, name
        assert not trace.exists(), name
        assert methods == HistoryBuffer._statistics_methods, name
        limit = 2 * len(content) + 2**26
        assert result['memory'] <= limit, (name, result)
