"""tools/train.py, test.py and their launchers, run as a person runs them."""

import gc
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.fileio import load
from torch.nn import Conv2d
from torch.nn.modules.module import register_module_forward_hook

from mmctx.engine import cli
from tests.helpers.scripts import ROOT, load_script
from tests.helpers.small_data import make_cityscapes, make_imagenet

CONFIG = str(ROOT / 'configs/cotnet/cotnet50_8xb64-100e_in1k.py')
train = load_script('tools/train.py')
test = load_script('tools/test.py')


@pytest.fixture(scope='module')
def shrink(tmp_path_factory):
    """--cfg-options that make CONFIG a matter of seconds."""
    data = tmp_path_factory.mktemp('data')
    make_imagenet(data)
    options = {
        'model.backbone.depth': '"(1,1,1,1)"',
        'train_cfg.max_epochs': 1,
        'train_dataloader.batch_size': 2,
    }
    for loader in ('train', 'val', 'test'):
        options[f'{loader}_dataloader.num_workers'] = 0
        options[f'{loader}_dataloader.dataset.data_root'] = data
    return ['--cfg-options', *(f'{k}={v}' for k, v in options.items())]


@pytest.fixture(autouse=True)
def collected():
    """What earlier tests left complains when collected: not in these."""
    gc.collect()


def environment():
    """That of a person who has not installed the package."""
    env = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    return dict(env, OMP_NUM_THREADS='1')


def execute(*command, cwd):
    command = [str(part) for part in command]
    done = subprocess.run(
        command, cwd=cwd, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope='module')
def work_dir(tmp_path_factory, shrink):
    """The work dir of one epoch of training, started from another folder."""
    folder = tmp_path_factory.mktemp('train')
    execute(
        sys.executable, ROOT / 'tools/train.py', CONFIG, *shrink, cwd=folder
    )
    return folder / 'work_dirs' / Path(CONFIG).stem


def logs(work_dir):
    return '\n'.join(p.read_text() for p in work_dir.glob('*/*.log'))


def test_train_writes_where_the_hosts_do(work_dir):
    checkpoint = torch.load(work_dir / 'epoch_1.pth', weights_only=False)
    assert checkpoint['meta']['epoch'] == 1
    assert 'accuracy/top1' in logs(work_dir)
    assert (work_dir / 'best_accuracy_top1_epoch_1.pth').is_file()
    assert (work_dir / Path(CONFIG).name).is_file()


def test_resume(work_dir, shrink, tmp_path):
    options = [*shrink, 'train_cfg.max_epochs=2', f'work_dir={tmp_path}']
    (tmp_path / 'epoch_1.pth').symlink_to(work_dir / 'epoch_1.pth')
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_1.pth'))
    assert cli.run(train.main, [CONFIG, '--resume', *options]) == 0
    assert 'resumed epoch: 1, iter: 1' in logs(tmp_path)
    assert (tmp_path / 'epoch_2.pth').is_file()


def test_test_scores_a_checkpoint(work_dir, shrink, tmp_path):
    out = execute(
        sys.executable,
        ROOT / 'tools/test.py',
        CONFIG,
        work_dir / 'epoch_1.pth',
        '--out',
        tmp_path / 'predictions.pkl',
        '--show-dir',
        tmp_path / 'shown',
        *shrink,
        cwd=tmp_path,
    )
    assert 'accuracy/top1' in out
    assert len(load(tmp_path / 'predictions.pkl')) == 2
    assert len(list((tmp_path / 'shown').rglob('*.*'))) == 2


def test_test_with_augmentation_writes_metrics(work_dir, shrink, tmp_path):
    argv = [CONFIG, str(work_dir / 'epoch_1.pth'), '--tta', *shrink]
    argv += ['--work-dir', str(tmp_path), '--out-item', 'metrics']
    assert cli.run(test.main, [*argv, '--out', f'{tmp_path}/m.json']) == 0
    assert set(load(tmp_path / 'm.json')) == {
        'accuracy/top1',
        'accuracy/top5',
    }


def test_segmentor_slides_over_images_and_their_mirror_images(tmp_path):
    make_cityscapes(tmp_path / 'data')
    (config,) = (ROOT / 'configs/contnet').glob('pspnet_cont*.py')
    options = {
        'model.data_preprocessor.size': '"(64,64)"',
        'model.backbone.arch': 's',
        'model.backbone.init_cfg': None,
        'model.test_cfg.crop_size': '"(64,64)"',
        'model.test_cfg.stride': '"(48,48)"',
        'train_cfg.max_iters': 1,
        'train_cfg.val_interval': 1,
        'train_dataloader.dataset.pipeline.6.crop_size': '"(64,64)"',
        'tta_pipeline.1.transforms.0.0.scale': '"(128,64)"',
    }
    for loader in ('train', 'val', 'test'):
        step = 2 if loader == 'train' else 1
        options[f'{loader}_dataloader.num_workers'] = 0
        options[f'{loader}_dataloader.dataset.data_root'] = tmp_path / 'data'
        options[f'{loader}_dataloader.dataset.pipeline.{step}.scale'] = (
            '"(128,64)"'
        )
    flags = ['--cfg-options', *(f'{k}={v}' for k, v in options.items())]
    flags += ['--work-dir', str(tmp_path)]
    assert cli.run(train.main, [str(config), *flags]) == 0
    flags += ['--tta', '--out', f'{tmp_path}/m']
    argv = [str(config), str(tmp_path / 'iter_1.pth'), *flags]
    assert cli.run(test.main, argv) == 0
    assert len(list((tmp_path / 'm').iterdir())) == 2


def test_dist_train_on_two_processes(shrink, tmp_path):
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    out = execute(
        'env',
        f'PORT={port}',
        'bash',
        ROOT / 'tools/dist_train.sh',
        CONFIG,
        2,
        '--work-dir',
        tmp_path,
        *shrink,
        'train_dataloader.batch_size=1',
        'model.backbone.norm_eval=True',
        cwd=tmp_path,
    )
    assert 'Distributed launcher: pytorch' in out
    assert 'GPU number: 2' in out
    assert (tmp_path / 'epoch_1.pth').is_file()


def test_no_thread_of_a_process_group_outlives_the_run():
    """One that did could abort the process at exit, after all was done."""
    script = """
import os
import torch.distributed as dist
from torch import nn
from mmctx.engine import cli

def main(argv):
    store = dist.HashStore()
    dist.init_process_group('gloo', store=store, rank=0, world_size=1)
    model = nn.parallel.DistributedDataParallel(nn.Linear(1, 1))
    model.circle = [model]
    print(len(os.listdir('/proc/self/task')))

cli.run(main)
print(len(os.listdir('/proc/self/task')))
"""
    out = execute(sys.executable, '-c', script, cwd=ROOT)
    during, after = map(int, out.split()[-2:])
    assert during > after == 1


@pytest.mark.parametrize(
    'script, positional, expected',
    [
        ('slurm_train.sh', 'w', 'train.py c.py --work-dir w --launcher slurm'),
        ('slurm_test.sh', 'x.pth', 'test.py c.py x.pth --launcher slurm'),
    ],
)
def test_slurm(script, positional, expected, tmp_path):
    srun = tmp_path / 'srun'
    srun.write_text('#!/bin/sh\necho "$PYTHONPATH" "$@"\n')
    srun.chmod(0o755)
    out = execute(
        'env',
        f'PATH={tmp_path}:{os.environ["PATH"]}',
        'GPUS=16',
        'SRUN_ARGS=--quotatype=auto --time=1',
        'bash',
        ROOT / 'tools' / script,
        'part',
        'job',
        'c.py',
        positional,
        '--amp',
        cwd=tmp_path,
    )
    assert out.startswith(f'{ROOT} -p part --job-name=job --gres=gpu:8')
    assert '--ntasks=16 --ntasks-per-node=8 --cpus-per-task=5' in out
    assert '--quotatype=auto --time=1 python -u' in out
    assert out.rstrip().endswith(f'{expected} --amp')


def test_amp_and_lr_scaling():
    cfg = Config.fromfile(CONFIG)
    train.use_amp(cfg)
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
    assert cfg.optim_wrapper.loss_scale == 'dynamic'
    train.scale_lr(cfg, CONFIG)
    assert cfg.auto_scale_lr == dict(enable=True, base_batch_size=512)


DETECTOR = str(
    ROOT / 'configs/digit_scenes/faster-rcnn_cotnet-26_fpn_digit-scenes.py'
)


@pytest.mark.skipif(get_device() != 'cpu', reason='of CPUs')
def test_amp_on_a_cpu(shrink, tmp_path):
    """A step in bfloat16, without a loss scale; validation as ever."""
    argv = [CONFIG, '--amp', '--work-dir', str(tmp_path), *shrink]
    types = []

    def save(module, inputs, output):
        if isinstance(module, Conv2d):
            types.append((module.training, output.dtype))

    handle = register_module_forward_hook(save)
    try:
        assert cli.run(train.main, argv) == 0
    finally:
        handle.remove()
    assert {*types} == {(True, torch.bfloat16), (False, torch.float32)}


@pytest.mark.skipif(get_device() != 'cpu', reason='of CPUs')
def test_no_amp_where_operators_lack_it(capsys, tmp_path):
    checkpoint = tmp_path / 'a.pth'
    checkpoint.touch()
    for main, argv in ((train.main, []), (test.main, [str(checkpoint)])):
        assert cli.run(main, [DETECTOR, *argv, '--amp']) == 2
        assert_one_line(capsys, 'on a CPU it is bfloat16, which NMS and')
    cfg = Config.fromfile(DETECTOR)
    cfg.optim_wrapper.update(type='AmpOptimWrapper', loss_scale='dynamic')
    train.leave_gpu_amp(cfg)
    assert cfg.optim_wrapper.type == 'OptimWrapper'
    assert 'loss_scale' not in cfg.optim_wrapper


BASE = ROOT / 'configs/_base_/runtime/mmpretrain.py'
MISTAKES = {
    'flag': ([CONFIG, '--reusme'], 'did you mean --resume?'),
    'option': ([CONFIG, '--cfg-options', 'depth'], 'KEY=VALUE'),
    'no config': ([CONFIG.replace('xb64', 'xb46')], f'mean {CONFIG}?'),
    'part of a config': ([str(BASE)], 'no model, train_dataloader'),
    'type': (
        [CONFIG, '--cfg-options', 'model.backbone.type=CoTNett'],
        'CoTNett is not in the ',
    ),
    'argument': (
        [CONFIG, '--cfg-options', 'model.backbone.dpeth=50'],
        "unexpected keyword argument 'dpeth'",
    ),
    'argument of what is built late': (
        [CONFIG, '--cfg-options', 'train_cfg.max_iters=2'],
        "unexpected keyword argument 'max_iters'. If it comes from a _base_",
    ),
    'value': (
        [CONFIG, '--cfg-options', 'model.backbone.depth=51'],
        'depth must be one of',
    ),
    'checkpoint': ([CONFIG, '--resume', 'no.pth'], 'no.pth does not exist'),
}


def assert_one_line(capsys, message):
    lines = capsys.readouterr().err.splitlines()
    assert 'error: ' in lines[-1] and message in lines[-1], lines
    assert not any('Traceback' in line for line in lines), lines


@pytest.mark.parametrize('mistake', MISTAKES)
def test_mistakes_get_one_line(mistake, capsys, tmp_path):
    argv, message = MISTAKES[mistake]
    try:
        code = cli.run(train.main, [*argv, '--work-dir', str(tmp_path)])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    assert_one_line(capsys, message)


@pytest.mark.parametrize(
    'text, message',
    [
        ('model = dict(\n', 'line 1: '),
        ("_base_ = './absent.py'\n", 'absent.py'),
        ("default_scope = 'mmnowhere'\n", 'mmnowhere is not installed'),
        ("custom_imports = dict(imports=['mmnowhere'])\n", 'mmnowhere'),
    ],
)
def test_foreign_configs_get_one_line(text, message, capsys, tmp_path):
    config = tmp_path / 'config.py'
    config.write_text(text)
    assert cli.run(train.main, [str(config)]) == 2
    assert_one_line(capsys, message)


def test_missing_data_gets_one_line(shrink, capsys, tmp_path):
    argv = [CONFIG, '--work-dir', str(tmp_path), *shrink]
    argv += ['train_dataloader.dataset.data_root=nowhere']
    assert cli.run(train.main, argv) == 2
    assert_one_line(capsys, 'nowhere')


def test_test_mistakes_get_one_line(capsys, tmp_path):
    assert cli.run(test.main, [CONFIG, 'no.pth']) == 2
    assert_one_line(capsys, 'checkpoint no.pth does not exist')
    checkpoint = tmp_path / 'a.pth'
    checkpoint.touch()
    argv = [CONFIG, str(checkpoint), '--out', 'predictions.json']
    assert cli.run(test.main, argv) == 2
    assert_one_line(capsys, '--out takes a .pkl file')


def test_what_is_no_checkpoint_gets_one_line(shrink, capsys, tmp_path):
    readme = tmp_path / 'README.md'
    readme.write_text('# Not a checkpoint\n')
    argv = [CONFIG, str(readme), '--work-dir', str(tmp_path / 'w'), *shrink]
    assert cli.run(test.main, argv) == 2
    assert_one_line(capsys, f'{readme} cannot be read as a checkpoint')


def test_our_own_bugs_keep_their_traceback():
    def buggy(argv):
        raise RuntimeError('ours')

    with pytest.raises(RuntimeError, match='ours'):
        cli.run(buggy)
