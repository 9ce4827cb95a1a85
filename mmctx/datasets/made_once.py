"""Directories that a program generates once, in whichever process is first."""

import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import Callable, Optional

__all__ = ['FILES', 'MANIFEST', 'make_once']

MANIFEST = 'manifest.json'
#: Sizes in bytes of all other files, by path. Data of older versions lacks it.
FILES = 'files.json'
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
        target (Path): The directory, or a link to it. Its parent is created
            if needed and holds the lock file.
        parameters (dict): What the content depends on, in JSON types; stored
            inside as ``manifest.json``.
        write (Callable): Fills the empty directory that it is called with.
        overwrite (bool): Recreate the directory if it exists.

    Returns:
        bool: Whether this call made the directory.

    Raises:
        FileExistsError: ``target`` exists, was not made here, and is left
            alone.
        ValueError: ``target`` was made with other parameters, or files of it
            are missing or cut.
        OSError: The directory cannot be written or locked.
    """
    target = Path(os.path.realpath(target))
    if target.is_symlink():
        raise FileExistsError(f'{target} is a link to itself. Remove it.')
    if (
        not overwrite
        and _read(target / MANIFEST) == parameters
        and not _damaged(target)
    ):
        return False
    with _locked(target.parent):
        for leftover in target.parent.glob(f'{_PREFIX}*'):
            shutil.rmtree(leftover)
        if target.exists():
            _check_ours(target)
            if not overwrite:
                _check_whole(target)
                _check_parameters(target, parameters)
                return False
        unfinished = target.with_name(_PREFIX + target.name)
        try:
            unfinished.mkdir()
            write(unfinished)
            text = json.dumps(parameters, indent=2) + '\n'
            sizes = json.dumps(_sizes(unfinished), indent=0)
            (unfinished / FILES).write_text(sizes)
            (unfinished / MANIFEST).write_text(text)
            _replace(target, unfinished)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return True


def _read(path: Path) -> Optional[dict]:
    """The dict in a JSON file, None if there is no such thing."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _sizes(target: Path) -> dict[str, int]:
    """Sizes in bytes of all files below a directory, by relative path."""
    return {
        path.relative_to(target).as_posix(): path.stat().st_size
        for path in sorted(target.rglob('*'))
        if path.is_file()
    }


def _damaged(target: Path) -> list[str]:
    """Files that are missing or have another size than when they were made."""
    made = _read(target / FILES) or {}
    return [name for name, size in made.items() if _size(target, name) != size]


def _size(target: Path, name: str) -> Optional[int]:
    try:
        return os.stat(f'{target}/{name}').st_size
    except OSError:
        return None


def _check_ours(target: Path) -> None:
    """Raise FileExistsError for a path that ``make_once`` did not make."""
    if _read(target / MANIFEST) is None and _read(target / FILES) is None:
        raise FileExistsError(
            f'{target} exists, but without a readable {MANIFEST} or {FILES}, '
            'so mmctx cannot know that it made it, and leaves it alone. Move '
            'it away, or choose another place.'
        )


def _check_whole(target: Path) -> None:
    """Raise ValueError if files are missing or cut."""
    damaged = _damaged(target)
    if _read(target / MANIFEST) is None:
        damaged.append(MANIFEST)
    if damaged:
        others = f' and {len(damaged) - 1} more' * (len(damaged) > 1)
        raise ValueError(
            f'{target} is damaged; missing or changed: {damaged[0]}{others}. '
            'Delete the directory (--overwrite of the tool that makes it does '
            'so) to have it made anew.'
        )


def _check_parameters(target: Path, asked: dict) -> None:
    """Raise ValueError if the directory was made with other parameters."""
    made = _read(target / MANIFEST)
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
