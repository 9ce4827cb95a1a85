"""Checkpoints appear whole or not at all."""

import io
import multiprocessing
import os
import random
import subprocess
import time

import pytest
import torch

from mmctx.checkpoints import CheckpointError, load_file
from mmctx.engine import cli
from mmctx.engine.whole_files import WholeFiles
from tests.helpers.scripts import load_script
from tests.helpers.small_runs import write_config


def contents(number):
    """Of a checkpoint of four megabytes."""
    with io.BytesIO() as file:
        weight = torch.full((2**20,), float(number))
        torch.save(dict(number=number, weight=weight), file)
        return file.getvalue()


def save_in_turn(path, files, connection):
    for number in range(2000):
        WholeFiles().put(files[number % 2], path)
        connection.send(number)


def test_killed_at_twenty_moments_of_saving(tmp_path):
    path = tmp_path / 'last.pth'
    files = [contents(0), contents(1)]
    context = multiprocessing.get_context('fork')
    for _ in range(20):
        here, there = context.Pipe()
        process = context.Process(
            target=save_in_turn, args=(path, files, there), daemon=True
        )
        process.start()
        assert here.poll(60) and here.recv() == 0
        time.sleep(random.random() / 20)
        process.kill()
        process.join()
        assert path.read_bytes() in files
        assert load_file(path)['number'] in (0, 1)
        assert {*os.listdir(tmp_path)} <= {'last.pth', '.unfinished'}


@pytest.fixture
def mount(tmp_path):
    """Mounts a file system of a few megabytes; gone at the end."""
    folder = tmp_path / 'mounted'
    folder.mkdir()

    def run(options):
        command = ['mount', '-t', 'tmpfs', '-o', options, 'tmpfs', folder]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip('mounting takes the rights of root')
        return folder

    yield run
    subprocess.run(['umount', folder], capture_output=True)


def test_a_full_disk(mount):
    folder = mount('size=10M')
    WholeFiles().put(contents(0), folder / 'last.pth')
    (folder / 'other').write_bytes(bytes(3 * 2**20))
    match = r'No space left.*needs 4\.2 MB of the .* MB.*--resume'
    with pytest.raises(CheckpointError, match=match):
        WholeFiles().put(contents(1), folder / 'last.pth')
    assert load_file(folder / 'last.pth')['number'] == 0
    assert {*os.listdir(folder)} == {'last.pth', 'other'}
    (folder / 'other').unlink()
    WholeFiles().put(contents(1), folder / 'last.pth')
    assert load_file(folder / 'last.pth')['number'] == 1


def test_a_disk_that_fills_up_while_training(mount, tmp_path, capsys):
    """The error is one line; --resume goes on from what was saved before."""
    folder = mount('size=100M')
    config = write_config(
        tmp_path,
        'pspnet_contnet-slim',
        train_cfg__max_iters=3,
        train_cfg__val_interval=100,
        default_hooks__checkpoint__interval=1,
    )
    train = load_script('tools/train.py')
    argv = [str(config), '--work-dir', str(folder), '--no-validate']
    options = ['--cfg-options', 'train_cfg.max_iters=1']
    assert cli.run(train.main, [*argv, *options]) == 0
    size = (folder / 'iter_1.pth').stat().st_size
    room = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
    (folder / 'other').write_bytes(bytes(room - size * 3 // 2))
    capsys.readouterr()
    assert cli.run(train.main, [*argv, '--resume']) == 2
    error = capsys.readouterr().err
    assert 'iter_3.pth cannot be written: No space left' in error
    assert 'Traceback' not in error
    (folder / 'other').unlink()
    assert cli.run(train.main, [*argv, '--resume']) == 0
    assert {'iter_1.pth', 'iter_2.pth', 'iter_3.pth'} < {*os.listdir(folder)}


def test_a_work_dir_that_cannot_be_written(mount, tmp_path, capsys):
    folder = mount('ro')
    train = load_script('tools/train.py')
    config = write_config(tmp_path, 'pspnet_contnet-slim')
    argv = [str(config), '--work-dir', str(folder / 'run')]
    assert cli.run(train.main, argv) == 2
    error = capsys.readouterr().err
    assert f'work dir {folder}/run cannot be written' in error
    assert '--work-dir' in error
