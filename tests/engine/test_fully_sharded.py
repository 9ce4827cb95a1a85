"""FSDP2: the losses of DDP, and checkpoints that load without it."""

import json
import os
import socket
import subprocess

import pytest
import torch

from mmctx.engine import cli
from tests.helpers.scripts import ROOT, load_script
from tests.helpers.small_runs import write_config

SHARDED = dict(
    runner_type='FlexibleRunner', strategy=dict(type='FullyShardedStrategy')
)


def run_on_two(config, *flags):
    """dist_train.sh with two processes."""
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = str(s.getsockname()[1])
    command = ['bash', ROOT / 'tools/dist_train.sh', config, '2', *flags]
    done = subprocess.run(
        [str(part) for part in (*command, '--no-validate')],
        env=dict(os.environ, PORT=port, OMP_NUM_THREADS='1'),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]


def losses(work_dir):
    (path,) = work_dir.glob('*/vis_data/scalars.json')
    lines = map(json.loads, path.read_text().splitlines())
    return [line['loss'] for line in lines if 'loss' in line]


def test_losses_and_checkpoints_are_those_of_ddp(tmp_path):
    pytest.importorskip('torch.distributed.fsdp', reason='needs torch 2.6')
    options = dict(
        images=16,
        train_cfg__max_epochs=2,
        randomness=dict(seed=0),
        optim_wrapper__accumulative_counts=2,
    )
    name = 'mask-rcnn_coat-lite-slim_fpn'
    plain = write_config(tmp_path, name, **options)
    run_on_two(plain, '--work-dir', tmp_path / 'ddp')
    (tmp_path / 'sharded').mkdir()
    config = tmp_path / 'sharded.py'
    config.write_text(f'_base_ = {str(plain)!r}\n')
    with config.open('a') as file:
        for key, value in SHARDED.items():
            file.write(f'{key} = {value!r}\n')
    run_on_two(config, '--work-dir', tmp_path / 'fsdp')
    a, b = losses(tmp_path / 'ddp'), losses(tmp_path / 'fsdp')
    assert len(a) == 8
    torch.testing.assert_close(a, b, rtol=1e-5, atol=0)
    a, b = (
        torch.load(tmp_path / d / 'epoch_1.pth', weights_only=False)
        for d in ('ddp', 'fsdp')
    )
    for part in ('state_dict', 'optimizer'):
        torch.testing.assert_close(a[part], b[part], rtol=1e-3, atol=1e-5)
    # Each goes on from the other's.
    flags = ('--resume', tmp_path / 'ddp/epoch_1.pth')
    run_on_two(config, '--work-dir', tmp_path / 'fsdp2', *flags)
    torch.testing.assert_close(
        losses(tmp_path / 'fsdp2'),
        losses(tmp_path / 'ddp')[4:],
        rtol=1e-5,
        atol=0,
    )
    train = load_script('tools/train.py')
    argv = [str(plain), '--work-dir', str(tmp_path / 'one'), '--no-validate']
    argv += ['--resume', str(tmp_path / 'fsdp/epoch_1.pth')]
    assert cli.run(train.main, argv) == 0
