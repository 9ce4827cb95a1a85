"""Training that goes on from a checkpoint is training that never stopped."""

import multiprocessing
import os
import random
import signal
import subprocess
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.registry import HOOKS
from torch.utils.data import DataLoader, Dataset, TensorDataset

from mmctx.engine import cli
from mmctx.engine.hooks import ResumableCheckpoint
from mmctx.engine.seeded_batches import SeededBatches
from tests.helpers.scripts import load_script
from tests.helpers.small_runs import differences, write_config

train = load_script('tools/train.py')


def run(config, work_dir, *argv):
    """tools/train.py in this process; its exit code."""
    argv = [config, '--work-dir', work_dir, '--no-validate', *argv]
    return cli.run(train.main, [str(arg) for arg in argv])


def changed_parts(*paths):
    """Parts of two checkpoints that differ."""
    a, b = (torch.load(path, weights_only=False) for path in paths)
    return {
        part
        for part in ('state_dict', 'optimizer', 'param_schedulers')
        if differences(a[part], b[part])
    }


def schedule(name, iterations):
    """Options of a run with a checkpoint in its middle, and their names."""
    if name.startswith('pspnet'):
        options = {
            'train_cfg__max_iters': iterations,
            'train_cfg__val_interval': 1000,
            'default_hooks__checkpoint__interval': iterations // 2,
        }
        return options, f'iter_{iterations // 2}.pth', f'iter_{iterations}.pth'
    options = dict(train_cfg__max_epochs=2, images=iterations)
    return options, 'epoch_1.pth', 'epoch_2.pth'


@pytest.mark.parametrize(
    'name',
    [
        'detr_container-light-slim',
        'faster-rcnn_cotnet-26_fpn',
        'mask-rcnn_coat-lite-slim_fpn',
        'pspnet_contnet-slim',
    ],
)
def test_resuming_is_going_on(name, tmp_path):
    """2 + 2 iterations are 4, without a seed in the config."""
    options, half, whole = schedule(name, 4)
    config = write_config(tmp_path, name, **options)
    assert run(config, tmp_path / 'a') == 0
    checkpoint = tmp_path / 'a' / half
    assert run(config, tmp_path / 'b', '--resume', checkpoint) == 0
    paths = (tmp_path / 'a' / whole, tmp_path / 'b' / whole)
    assert not changed_parts(*paths)


def test_the_stock_hook_goes_on_elsewhere(tmp_path):
    """Or the test above could not fail."""
    config = write_config(
        tmp_path,
        'faster-rcnn_r18_fpn',
        images=4,
        train_cfg__max_epochs=2,
        default_hooks__checkpoint__type='CheckpointHook',
    )
    assert run(config, tmp_path / 'a') == 0
    checkpoint = tmp_path / 'a/epoch_1.pth'
    assert run(config, tmp_path / 'b', '--resume', checkpoint) == 0
    paths = (tmp_path / 'a/epoch_2.pth', tmp_path / 'b/epoch_2.pth')
    assert changed_parts(*paths) == {'state_dict', 'optimizer'}


@HOOKS.register_module()
class SignalAll(Hook):
    """Slurm signals all processes of a job: the workers of loaders, too."""

    def __init__(self, at):
        self.at = at

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.at:
            workers = multiprocessing.active_children()
            pids = [os.getpid(), *(worker.pid for worker in workers)]
            # A process's own signals to its workers end them.
            subprocess.run(['kill', '-TERM', *map(str, pids)], check=True)
            time.sleep(0.2)


@pytest.mark.parametrize(
    'name', ['faster-rcnn_r18_fpn', 'pspnet_contnet-slim']
)
def test_a_signal_saves_and_resuming_skips_what_was_seen(name, tmp_path):
    """Also what workers had loaded ahead; the handlers of before return."""
    options = dict(schedule(name, 4)[0], images=8, workers=2)
    options['default_hooks__checkpoint__max_keep_ckpts'] = 1
    options['hooks'] = [dict(type='SignalAll', at=-1)]
    config = write_config(tmp_path, name, **options)
    assert run(config, tmp_path / 'a') == 0
    before = signal.getsignal(signal.SIGTERM)
    options = ['custom_hooks.1.at=1', seed_of(tmp_path / 'a')]
    with pytest.raises(SystemExit, match='75'):
        run(config, tmp_path / 'b', '--cfg-options', *options)
    assert signal.getsignal(signal.SIGTERM) is before
    checkpoint = torch.load(tmp_path / 'b/interrupted.pth', weights_only=False)
    assert checkpoint['meta']['iter'] == 2
    assert run(config, tmp_path / 'b', '--resume') == 0
    a, b = (sorted(p.name for p in (tmp_path / d).glob('*.pth')) for d in 'ab')
    assert a == b and len(a) == 1
    assert not changed_parts(tmp_path / 'a' / a[0], tmp_path / 'b' / b[0])


def seed_of(work_dir):
    """The option that repeats a run without a seed."""
    (path,) = work_dir.glob('*.pth')
    checkpoint = torch.load(path, weights_only=False)
    return f'randomness.seed={checkpoint["meta"]["seed"]}'


def test_a_signal_that_does_not_exist():
    with pytest.raises(ValueError, match="no signal 'SIGNAL'; a name is such"):
        ResumableCheckpoint(signals=['SIGNAL'])


def test_with_other_batches_it_goes_on_near_the_same_place():
    """Half of an epoch stays half of an epoch."""
    data = TensorDataset(torch.arange(8))
    loader = DataLoader(data, batch_size=1)
    batches = SeededBatches(loader, key=(0,))
    hook = ResumableCheckpoint()
    hook._batches = batches
    hook._resumed = dict(seed=0, batch=2, batches=4, world_size=2)
    logger = MMLogger('resuming')
    runner = SimpleNamespace(train_dataloader=loader, logger=logger)
    hook._skip_batches(runner)
    assert [indices for _, indices in batches] == [[4], [5], [6], [7]]
    assert [indices[0] for _, indices in batches] == [*range(8)]


def test_a_batch_has_the_same_numbers_after_any_others():
    class Noise(Dataset):
        def __len__(self):
            return 6

        def __getitem__(self, index):
            drawn = (random.random(), np.random.rand(), torch.rand(()).item())
            return index, *drawn

    def load(skip, workers):
        loader = DataLoader(Noise(), batch_size=2, num_workers=workers)
        batches = SeededBatches(loader, key=(3, 1))
        batches.skip(skip)
        return [torch.stack([*batch]) for batch in loader]

    whole = load(0, 0)
    assert len({batch[1, 0].item() for batch in whole}) == 3
    for skip, workers in ((1, 0), (2, 2)):
        rest = load(skip, workers)
        assert len(rest) == 3 - skip
        assert all(map(torch.equal, whole[skip:], rest))
