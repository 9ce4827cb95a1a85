"""Two nodes of two processes on the loopback interface, by torchrun."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
import torch

from tests.cluster.conftest import environment, free_ports, wait_for
from tests.helpers.scripts import ROOT
from tests.helpers.small_runs import write_config


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    """Three epochs of two iterations of four processes."""
    return write_config(
        tmp_path_factory.mktemp('config'),
        'faster-rcnn_r18_fpn',
        images=16,
        hooks=[dict(type='Slow', seconds=0.5)],
        custom_imports__imports=['mmctx', 'tests.cluster.hooks'],
        train_cfg__max_epochs=3,
        randomness=dict(seed=0),
    )


@pytest.fixture
def start(config):
    """Starts both nodes; they end with the test."""
    nodes = []

    def run(work_dir):
        """As docs/clusters.md says it."""
        env = environment(
            NNODES='2',
            PET_RDZV_BACKEND='c10d',
            PET_RDZV_ENDPOINT=f'127.0.0.1:{free_ports(1)[0]}',
            PET_MAX_RESTARTS='2',
            PET_LOCAL_ADDR='127.0.0.1',
            TORCH_DISABLE_SHARE_RDZV_TCP_STORE='1',
        )
        command = ['bash', ROOT / 'tools/dist_train.sh', config, '2']
        command += ['--work-dir', work_dir, '--resume', '--no-validate']
        for number in range(2):
            nodes.append(
                subprocess.Popen(
                    command,
                    env=env,
                    stdout=(work_dir / f'node{number}.txt').open('w'),
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )
        return nodes[-2:]

    yield run
    for node in nodes:
        if node.poll() is None:
            # torchrun ends its workers, which have sessions of their own.
            os.killpg(node.pid, signal.SIGTERM)
            node.wait(timeout=60)


def worker(work_dir, rank):
    """Id of the process of a rank."""
    for folder in Path('/proc').glob('[0-9]*'):
        try:
            command = (folder / 'cmdline').read_bytes()
            variables = (folder / 'environ').read_bytes().split(b'\0')
        except OSError:
            continue
        if (
            str(work_dir).encode() in command
            and f'RANK={rank}'.encode() in variables
        ):
            return int(folder.name)
    raise AssertionError(f'there is no process of rank {rank}')


def wait_for_end(nodes, work_dir):
    for number, node in enumerate(nodes):
        assert node.wait(timeout=300) == 0, (
            work_dir / f'node{number}.txt'
        ).read_text()[-3000:]


def losses(work_dir):
    """By number of the iteration, of all starts."""
    paths = sorted(work_dir.glob('*/vis_data/scalars.json'))
    lines = [json.loads(s) for p in paths for s in p.read_text().splitlines()]
    return {line['step']: line['loss'] for line in lines if 'loss' in line}


def test_a_killed_worker_is_replaced_and_training_ends_the_same(
    start, tmp_path
):
    """Up to the order of sums: DDP groups gradients anew after a step."""
    quiet, killed = tmp_path / 'quiet', tmp_path / 'killed'
    for work_dir in (quiet, killed):
        work_dir.mkdir()
    wait_for_end(start(quiet), quiet)
    nodes = start(killed)
    wait_for(lambda: (killed / 'last_checkpoint').exists())
    os.kill(worker(killed, 3), signal.SIGKILL)
    wait_for_end(nodes, killed)
    assert (
        'resumed epoch'
        in (killed / 'node0.txt').read_text()
        + (killed / 'node1.txt').read_text()
    )
    assert losses(quiet).keys() == {1, 2, 3, 4, 5, 6}
    for step, loss in losses(killed).items():
        assert loss == pytest.approx(losses(quiet)[step], rel=1e-6), step
    a, b = (
        torch.load(d / 'epoch_3.pth', weights_only=False)['state_dict']
        for d in (quiet, killed)
    )
    torch.testing.assert_close(a, b, rtol=0, atol=1e-4)
