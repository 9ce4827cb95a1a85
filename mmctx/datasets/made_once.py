"""Directories that a program generates once, in whichever process is first."""

import contextlib
import json
import shutil
from pathlib import Path
from typing import Callable

__all__ = ['MANIFEST', 'make_once']

MANIFEST = 'manifest.json'
_PREFIX = '.unfinished-'


def make_once(
    target: Path,
    parameters: dict,
    write: Callable[[Path], None],
    overwrite: bool = False,
) -> bool:
    """Make sure that ``target`` holds what ``write`` generates.

    The directory is written next to its destination and renamed once complete,
    so it exists in full or not at all. Concurrent processes (such as the ranks
    of a distributed run) wait for the first. Its lock is an ``flock``: the
    kernel releases it if the process dies, and the next process removes what
    was left behind.

    Args:
        target (Path): The directory. Its parent is created if needed and holds
            the lock file.
        parameters (dict): What the content depends on, in JSON types; stored
            inside as ``manifest.json``.
        write (Callable): Fills the empty directory that it is called with.
        overwrite (bool): Recreate the directory if it exists.

    Returns:
        bool: Whether this call made the directory.

    Raises:
        FileExistsError: ``target`` exists without a manifest: it was not made
            here and is left alone.
        ValueError: ``target`` was made with other parameters.
        OSError: The directory cannot be written or locked.
    """
    target = Path(target)
    if not overwrite and _manifest(target) == parameters:
        return False
    with _locked(target.parent):
        for leftover in target.parent.glob(f'{_PREFIX}*'):
            shutil.rmtree(leftover)
        if target.exists():
            _check_ours(target)
            if not overwrite:
                _check_parameters(target, parameters)
                return False
        unfinished = target.with_name(_PREFIX + target.name)
        try:
            unfinished.mkdir()
            write(unfinished)
            text = json.dumps(parameters, indent=2) + '\n'
            (unfinished / MANIFEST).write_text(text)
            _replace(target, unfinished)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return True


def _manifest(target: Path):
    """Parameters of a complete directory, None without a manifest."""
    try:
        return json.loads((target / MANIFEST).read_text())
    except (OSError, ValueError):
        return None


def _check_ours(target: Path) -> None:
    """Raise FileExistsError for a path that ``make_once`` did not make."""
    if not isinstance(_manifest(target), dict):
        raise FileExistsError(
            f'{target} exists, but without a readable {MANIFEST}, so mmctx '
            'did not make it and leaves it alone. Move it away, or choose '
            'another place.'
        )


def _check_parameters(target: Path, asked: dict) -> None:
    """Raise ValueError if the directory was made with other parameters."""
    made = _manifest(target)
    names = [n for n in {**made, **asked} if made.get(n) != asked.get(n)]
    if names:
        raise ValueError(
            f'{target} was made with '
            f'{ {n: made.get(n) for n in names} }, and '
            f'{ {n: asked.get(n) for n in names} } is asked for now. Choose '
            'another place, or delete the directory (--overwrite of the tool '
            'that makes it does so) to have it made anew.'
        )


@contextlib.contextmanager
def _locked(directory: Path):
    """Hold the exclusive lock of a directory, which is created if needed."""
    import fcntl  # POSIX only, so not imported with mmctx

    with contextlib.ExitStack() as stack:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(open(directory / '.lock', 'w'))
        except OSError as error:
            raise type(error)(
                f'Cannot write in {directory}: {error}. Choose a place that '
                'you may write to, or have its owner make the data first.'
            ) from error
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _replace(target: Path, complete: Path) -> None:
    """Rename ``complete`` to ``target``, replacing what is there."""
    if target.exists():
        old = target.with_name(f'{_PREFIX}old-{target.name}')
        target.rename(old)
        complete.rename(target)
        shutil.rmtree(old)
    else:
        complete.rename(target)
