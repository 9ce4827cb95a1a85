"""Files that appear whole or not at all."""

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Union

from mmengine.fileio import LocalBackend, register_backend

from mmctx.checkpoints import CheckpointError

#: Name of the backend in MMEngine's ``backend_args``.
WHOLE_FILES = 'whole_files'


class WholeFiles(LocalBackend):
    """Local files that replace the ones before when they are on the disk.

    A process or machine that stops while it writes leaves the file of before,
    and beside it ``.unfinished``, which the next write takes over.
    """

    def put(self, obj: bytes, filepath: Union[str, Path]) -> None:
        """Write bytes.

        Raises:
            CheckpointError: The file system is full or refuses.
        """
        path = Path(filepath)
        unfinished = path.with_name('.unfinished')
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with unfinished.open('wb') as file:
                file.write(obj)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
            _sync_folder(path.parent)
        except OSError as error:
            with suppress(OSError):
                unfinished.unlink()
            raise CheckpointError(
                f'{path} cannot be written: {error.strerror}. It needs '
                f'{_megabytes(len(obj))} of the {_free(path.parent)} that '
                'are free. Earlier checkpoints are whole: make room or get '
                'the right to write, then go on with --resume; '
                'default_hooks.checkpoint.max_keep_ckpts=1 keeps one only.'
            ) from error

    def put_text(
        self, obj: str, filepath: Union[str, Path], encoding: str = 'utf-8'
    ) -> None:
        """Write text, as :meth:`put` does."""
        self.put(obj.encode(encoding), filepath)


register_backend(WHOLE_FILES, WholeFiles, force=True)


def _sync_folder(folder: Path) -> None:
    """The new name reaches the disk, too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _free(folder: Path) -> str:
    with suppress(OSError):
        return _megabytes(shutil.disk_usage(folder).free)
    return 'megabytes'


def _megabytes(size: int) -> str:
    return f'{size / 1e6:.1f} MB'
