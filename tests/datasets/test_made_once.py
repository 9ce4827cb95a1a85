import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmctx.datasets.made_once import FILES, MANIFEST, make_once


def write_two_files(directory):
    (directory / 'a').write_text('1')
    (directory / 'b').write_text('2')


def names(directory):
    return sorted(path.name for path in Path(directory).iterdir())


def start(code, *args):
    return subprocess.Popen(
        [sys.executable, '-c', code, *map(str, args)],
        stdout=subprocess.PIPE,
        text=True,
    )


def test_makes_once(tmp_path):
    target = tmp_path / 'deep' / 'data'
    assert make_once(target, {'n': 2}, write_two_files)
    assert names(target) == ['a', 'b', FILES, MANIFEST]
    assert names(target.parent) == ['.lock', 'data']
    assert not make_once(target, {'n': 2}, lambda directory: 1 / 0)


def test_failed_writing_leaves_nothing(tmp_path):
    def fail(directory):
        write_two_files(directory)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_once(tmp_path / 'data', {}, fail)
    assert names(tmp_path) == ['.lock']


def test_other_parameters_are_refused_and_overwritten(tmp_path):
    target = tmp_path / 'data'
    make_once(target, {'n': 2, 'seed': 0}, write_two_files)
    with pytest.raises(ValueError, match=r"'n': 2.*'n': 3.*--overwrite"):
        make_once(target, {'n': 3, 'seed': 0}, write_two_files)

    def write_one_file(directory):
        (directory / 'c').write_text('3')

    assert make_once(target, {'n': 3}, write_one_file, overwrite=True)
    assert names(target) == ['c', FILES, MANIFEST]
    assert names(tmp_path) == ['.lock', 'data']


@pytest.mark.parametrize('overwrite', [False, True])
def test_foreign_directory_is_left_alone(tmp_path, overwrite):
    target = tmp_path / 'data'
    target.mkdir()
    (target / 'thesis').write_text('only copy')
    with pytest.raises(FileExistsError, match='Move it away'):
        make_once(target, {}, write_two_files, overwrite)
    assert names(target) == ['thesis']


def delete(path):
    path.unlink()


def cut(path):
    path.write_text('')


@pytest.mark.parametrize('damage', [delete, cut])
@pytest.mark.parametrize('name', ['deep/a', MANIFEST])
def test_damaged_directory(tmp_path, name, damage):
    """It is not ready, and can be made anew."""

    def write(directory):
        (directory / 'deep').mkdir()
        write_two_files(directory / 'deep')

    target = tmp_path / 'data'
    make_once(target, {'n': 2}, write)
    damage(target / name)
    with pytest.raises(
        ValueError, match=f'data is damaged; .*: {name}.*--overw'
    ):
        make_once(target, {'n': 2}, write)
    assert make_once(target, {'n': 2}, write, overwrite=True)
    assert not make_once(target, {'n': 2}, write)


def test_directories_of_older_versions(tmp_path):
    make_once(tmp_path / 'data', {}, write_two_files)
    (tmp_path / 'data' / FILES).unlink()
    assert not make_once(tmp_path / 'data', {}, write_two_files)


@pytest.mark.parametrize('overwrite', [False, True])
@pytest.mark.parametrize('exists', [False, True])
def test_links(tmp_path, exists, overwrite):
    """The directory is where the link says, and the link stays."""
    elsewhere, link = tmp_path / 'disk' / 'data', tmp_path / 'data'
    link.symlink_to(elsewhere)
    if exists:
        make_once(elsewhere, {}, write_two_files)
    made = make_once(link, {}, write_two_files, overwrite)
    assert made == (overwrite or not exists)
    assert link.is_symlink() and names(link) == names(elsewhere)
    assert names(tmp_path) == ['data', 'disk']


def test_links_that_lead_nowhere(tmp_path):
    (tmp_path / 'a').symlink_to(tmp_path / 'b')
    (tmp_path / 'b').symlink_to(tmp_path / 'a')
    with pytest.raises(FileExistsError, match='link to itself. Remove it'):
        make_once(tmp_path / 'a', {}, write_two_files)


def test_place_that_cannot_be_written(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(OSError, match='Cannot write in'):
        make_once(tmp_path / 'file' / 'data', {}, write_two_files)


SLOW = """
import sys, time
from pathlib import Path
from mmctx.datasets.made_once import make_once

def write(directory):
    (directory / 'begun').touch()
    time.sleep(float(sys.argv[2]))
    (directory / 'done').touch()

print(make_once(Path(sys.argv[1]), {}, write))
"""


def wait_for(path):
    for _ in range(600):
        if path.exists():
            return
        time.sleep(0.05)
    raise AssertionError(f'{path} did not appear')


def test_two_processes_at_once(tmp_path):
    target = tmp_path / 'data'
    processes = [start(SLOW, target, 0.5) for _ in range(2)]
    outputs = [process.communicate()[0].strip() for process in processes]
    assert sorted(outputs) == ['False', 'True']
    assert names(target) == ['begun', 'done', FILES, MANIFEST]


def test_killed_process_leaves_neither_lock_nor_data(tmp_path):
    target = tmp_path / 'data'
    process = start(SLOW, target, 60)
    wait_for(tmp_path / '.unfinished-data' / 'begun')
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert not target.exists()
    assert make_once(target, {}, write_two_files)
    assert names(target) == ['a', 'b', FILES, MANIFEST]
    assert names(tmp_path) == ['.lock', 'data']
