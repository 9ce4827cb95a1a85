"""Processes find each other through what their launcher says."""

import os
import socket
import subprocess
import sys

import pytest
from mmengine.config import Config

from mmctx.engine import cli, launchers
from tests.helpers.scripts import ROOT

SUM_OF_RANKS = """
import sys, torch
from mmengine.config import Config
from mmctx.engine import launchers
cfg = Config(dict(model_wrapper_cfg=dict(find_unused_parameters=True)))
launchers.join(cfg, sys.argv[1])
total = torch.tensor(1.0 + torch.distributed.get_rank())
torch.distributed.all_reduce(total)
print(total.item(), cfg.model_wrapper_cfg.device_ids)
torch.distributed.destroy_process_group()
"""


def variables(launcher):
    """What the launcher sets for both of two processes of a machine."""
    if launcher == 'slurm':
        return dict(
            SLURM_STEP_NODELIST='127.0.0.[1-2]', SLURM_JOB_ID=str(os.getpid())
        )
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = str(s.getsockname()[1])
    return dict(OMPI_COMM_WORLD_LOCAL_SIZE='2', MASTER_PORT=port)


def ranks(launcher, rank):
    values = (str(rank), '2', str(rank))
    return dict(zip(launchers.VARIABLES[launcher], values))


@pytest.mark.parametrize('launcher', ['slurm', 'mpi'])
def test_two_processes_join_on_a_cpu(launcher):
    """torchrun: tests/tools/test_train_and_test.py."""
    env = {**os.environ, **variables(launcher), 'CUDA_VISIBLE_DEVICES': ''}
    processes = [
        subprocess.Popen(
            [sys.executable, '-c', SUM_OF_RANKS, launcher],
            cwd=ROOT,
            env={**env, **ranks(launcher, rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    for process in processes:
        assert process.communicate(timeout=100)[0].split() == ['3.0', 'None']
        assert process.returncode == 0


@pytest.mark.parametrize('launcher', launchers.VARIABLES)
def test_missing_variables(launcher, monkeypatch):
    rank, *_ = launchers.VARIABLES[launcher]
    monkeypatch.delenv(rank, raising=False)
    with pytest.raises(cli.UserError, match=f'{rank}.*start the command with'):
        launchers.join(Config(), launcher)


def test_mpi_on_several_machines_needs_an_address(monkeypatch):
    for values in (ranks('pytorch', 0), ranks('mpi', 0)):
        for name, value in values.items():
            monkeypatch.setenv(name, value)
    monkeypatch.delenv('MASTER_ADDR', raising=False)
    monkeypatch.setenv('OMPI_COMM_WORLD_LOCAL_SIZE', '1')
    with pytest.raises(cli.UserError, match='MASTER_ADDR'):
        launchers.join(Config(), 'mpi')


@pytest.mark.parametrize(
    'nodes, host',
    [
        ('gpu1', 'gpu1'),
        ('gpu1,gpu2', 'gpu1'),
        ('gpu[03-05,09],login1', 'gpu03'),
        ('rack[1-2]n[07,09].local', 'rack1n07.local'),
    ],
)
def test_first_host(nodes, host):
    """As `scontrol show hostnames NODES | head -n1` prints it."""
    assert launchers.first_host(nodes) == host
