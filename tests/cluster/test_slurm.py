"""tools/slurm_*.sh on a Slurm with two nodes of two made-up GPUs each."""

import json
import re

import pytest
import torch

from tests.cluster.conftest import wait_for
from tests.helpers.scripts import ROOT
from tests.helpers.small_runs import differences, write_config

TWO_TASKS = dict(GPUS='2', GPUS_PER_NODE='2', CPUS_PER_TASK='1')


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    """Twelve iterations of two processes, of a third of a second or more."""
    return write_config(
        tmp_path_factory.mktemp('config'),
        'faster-rcnn_r18_fpn',
        images=24,
        hooks=[dict(type='Slow', seconds=0.3)],
        custom_imports__imports=['mmctx', 'tests.cluster.hooks'],
        train_cfg__max_epochs=2,
        train_cfg__val_interval=2,
        randomness=dict(seed=0),
    )


def slurm_train(slurm, config, work_dir, *flags, **variables):
    """slurm_train.sh with two tasks, in the background."""
    script = ROOT / 'tools/slurm_train.sh'
    return slurm.start(
        *('bash', script, 'low', 'test', config, work_dir, *flags),
        **{**TWO_TASKS, **variables},
    )


def end_of(process, seconds=300):
    """Exit code and output of a process."""
    output = process.communicate(timeout=seconds)[0]
    return process.returncode, output


def read_log(work_dir):
    return '\n'.join(path.read_text() for path in work_dir.glob('*/*.log'))


def has_trained(work_dir):
    return 'Epoch(train)' in read_log(work_dir)


def load(path):
    return torch.load(path, weights_only=False)


@pytest.fixture(scope='module')
def trained(slurm, config, tmp_path_factory):
    """Work dir of a run that nothing disturbs."""
    folder = tmp_path_factory.mktemp('trained')
    code, output = end_of(slurm_train(slurm, config, folder))
    assert code == 0, output
    return folder


def test_training(trained):
    log = read_log(trained)
    assert 'Distributed launcher: slurm' in log
    assert 'GPU number: 2' in log
    assert 'coco/bbox_mAP:' in log
    assert load(trained / 'epoch_2.pth')['meta']['iter'] == 12


def scores(work_dir):
    """Metrics of a test, without its times."""
    (path,) = work_dir.glob('*/*.json')
    metrics = json.loads(path.read_text())
    return {key: metrics[key] for key in metrics if 'time' not in key}


def test_evaluation_is_that_of_one_process(slurm, config, trained, tmp_path):
    """Five images for two processes: one of them is evaluated twice."""
    checkpoint = trained / 'epoch_2.pth'
    root = str(tmp_path / 'digits')
    flags = [
        *('--cfg-options', 'custom_hooks.0.val=5', 'custom_hooks.0.train=1'),
        f'custom_hooks.0.data_root={root}',
        f'test_dataloader.dataset.data_root={root}/scenes/',
        f'test_evaluator.ann_file={root}/scenes/annotations/instances_val.json',
    ]
    two, one = tmp_path / 'two', tmp_path / 'one'
    code, output = slurm.run(
        *('bash', ROOT / 'tools/slurm_test.sh', 'low', 'test', config),
        *(checkpoint, '--work-dir', two, *flags),
        **TWO_TASKS,
    )
    assert code == 0 and 'GPU number: 2' in output, output
    code, output = slurm.run(
        *('python', ROOT / 'tools/test.py', config, checkpoint),
        *('--work-dir', one, *flags),
        PYTHONPATH=str(ROOT),
    )
    assert code == 0, output
    a, b = scores(two), scores(one)
    assert a['coco/bbox_mAP'] >= 0
    assert a == b


def test_a_crash_ends_the_job_with_its_error(slurm, config, tmp_path):
    flags = ['--cfg-options', 'custom_hooks.1.fails=True']
    code, output = end_of(slurm_train(slurm, config, tmp_path, *flags))
    assert code != 0
    assert 'RuntimeError: the second process has had enough' in output


def test_cancelling_saves(slurm, config, tmp_path):
    process = slurm_train(slurm, config, tmp_path)
    wait_for(lambda: has_trained(tmp_path))
    slurm.run('scancel', '--name=test')
    assert end_of(process)[0] != 0
    assert 'Interrupted after iteration' in read_log(tmp_path)
    assert load(tmp_path / 'interrupted.pth')['meta']['iter'] > 0


def test_the_time_limit_saves(slurm, config, tmp_path):
    """By the signal before it, or by SIGTERM where a machine is slow.

    Slurm looks at the limit every half minute; a minute is the least.
    """
    options = ['--cfg-options', 'custom_hooks.1.seconds=3']
    process = slurm_train(
        *(slurm, config, tmp_path, *options),
        SRUN_ARGS='--time=10 --signal=USR1@60',
    )
    wait_for(lambda: has_trained(tmp_path))
    job = slurm.ask('squeue', '-h', '-n', 'test', '-o', '%i')
    slurm.run('scontrol', 'update', f'JobId={job}', 'TimeLimit=1')
    code, output = end_of(process)
    assert code != 0
    assert 'Interrupted after iteration' in output
    assert load(tmp_path / 'interrupted.pth')['meta']['iter'] > 0


@pytest.mark.parametrize('way', ['preempted', 'signalled'])
def test_a_job_goes_on_by_itself_to_the_same_weights(
    way, slurm, config, trained, tmp_path
):
    """slurm_job.sh in an array of one, on two nodes."""
    work_dir = tmp_path / config.stem
    submit = slurm.run(
        *('sbatch', '--nodes=2', '--ntasks-per-node=1', '--gres=gpu:1'),
        *('--cpus-per-task=1', '--array=0', ROOT / 'tools/slurm_job.sh'),
        config,
        PYTHONPATH=str(ROOT),
        WORK_DIRS=str(tmp_path),
    )[1]
    job = re.search(r'batch job (\d+)', submit)[1]
    wait_for(lambda: has_trained(work_dir))
    if way == 'preempted':
        wait = ('sbatch', '-p', 'high', '-N2', '--exclusive', '--wrap', 'true')
        slurm.run(*wait)
    else:  # as before the time limit
        slurm.run('scancel', '--signal=USR1', job)
    wait_for(lambda: not slurm.state(job))
    log = read_log(work_dir)
    assert 'Interrupted after iteration' in log and 'resumed epoch' in log
    assert not (work_dir / 'interrupted.pth').exists()
    logs = sorted(work_dir.glob('logs/slurm-*-rank?.txt'))
    assert [path.stem[-1] for path in logs] == ['0', '1']
    assert 'Auto resumed from the latest' in logs[0].read_text()
    a, b = (load(d / 'epoch_2.pth') for d in (trained, work_dir))
    for part in ('state_dict', 'optimizer', 'param_schedulers'):
        assert not differences(a[part], b[part]), part
