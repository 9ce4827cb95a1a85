"""Reading checkpoint files without running what is in them."""

import argparse
import hashlib
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor

from .released import RELEASED


class CheckpointError(ValueError):
    """A checkpoint that cannot be used, and why."""


def _history_method(owner: Any, name: str) -> Any:
    """The one use of ``getattr`` in MMEngine's files: its log's methods."""
    if owner is not HistoryBuffer:
        raise pickle.UnpicklingError('Unsupported global: GLOBAL getattr')
    return getattr(owner, name)


# The name under which files ask for it.
_history_method.__module__ = 'builtins'
_history_method.__name__ = _history_method.__qualname__ = 'getattr'


def _harmless_globals() -> list:
    """What MMEngine's and timm's trainers save beside tensors.

    Plain data holders: rebuilding one runs no code of the file.
    """
    core = getattr(np, '_core', None) or np.core
    dtypes = ('bool', 'int32', 'int64', 'uint8', 'float32', 'float64')
    return [
        HistoryBuffer,
        _history_method,
        argparse.Namespace,
        np.ndarray,
        np.dtype,
        core.multiarray._reconstruct,
        core.multiarray.scalar,
        *(type(np.dtype(name)) for name in dtypes),
    ]


def load_file(
    path: Union[str, Path], map_location: Optional[str] = 'cpu'
) -> Any:
    """Load a checkpoint file; a file that holds code is refused.

    Args:
        path (str or Path): A file written by ``torch.save``.
        map_location (str, optional): As in ``torch.load``.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: The file holds more than tensors and plain data, is
            truncated, or is no checkpoint.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f'There is no checkpoint file {path}. Give the path of a '
            f'downloaded file, or one of the names {sorted(RELEASED)} as '
            'mmctx://NAME.'
        )
    try:
        with torch.serialization.safe_globals(_harmless_globals()):
            return torch.load(
                path, map_location=map_location, weights_only=True
            )
    except pickle.UnpicklingError as error:
        found = re.search(r'GLOBAL ([\w.]+)', str(error))
        asked = found[1] if found else 'something'
        raise CheckpointError(
            f'{path} was refused: it asks for {asked}, which is no tensor or '
            'plain data, and loading it could run code. Ask its author for a '
            'file with the state dict only.'
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f'{path} cannot be read as a checkpoint: it is truncated, or was '
            f'not written by torch.save. ({error}) Download it anew.'
        ) from error


def unwrap(checkpoint: Any, ema: bool = False) -> dict[str, Tensor]:
    """The state dict inside a checkpoint's outer dict.

    Args:
        checkpoint (dict): A state dict, or a dict with one under
            'state_dict', 'state_dict_ema', 'model' or 'model_ema'. A
            'module.' prefix is removed.
        ema (bool): Take the averaged weights where a file holds both.
            Defaults to False.

    Raises:
        CheckpointError: There are no tensors in it.
    """
    averaged = ('state_dict_ema', 'model_ema')
    order = ('state_dict', 'model', *averaged)
    if ema:
        order = (*averaged, *order)
    state = checkpoint
    if isinstance(checkpoint, Mapping):
        for key in order:
            if isinstance(checkpoint.get(key), Mapping):
                state = checkpoint[key]
                break
    if not isinstance(state, Mapping) or not state:
        raise CheckpointError(
            'The checkpoint holds no state dict; expected a dict of tensors, '
            "bare or under 'state_dict', 'state_dict_ema', 'model' or "
            "'model_ema'."
        )
    # detectron2 saves arrays.
    state = {
        k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v
        for k, v in state.items()
    }
    strange = [k for k, v in state.items() if not isinstance(v, Tensor)]
    if strange:
        raise CheckpointError(
            f'The state dict holds values that are no tensors: {strange[:5]}.'
        )
    if all(k.startswith('module.') for k in state):
        state = {k[len('module.') :]: v for k, v in state.items()}
    return state


def cache_dir() -> Path:
    """Where downloads are kept: ``$TORCH_HOME/hub/mmctx`` by default."""
    return Path(torch.hub.get_dir()) / 'mmctx'


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open('rb') as file:
        for chunk in iter(lambda: file.read(1 << 20), b''):
            digest.update(chunk)
    return digest.hexdigest()


def _check_hash(path: Path, expected: str) -> None:
    found = _sha256(path)
    if not found.startswith(expected.lower()):
        raise CheckpointError(
            f'{path} has SHA-256 {found}, expected {expected}. The file is '
            'damaged or not the released one: delete it and try again.'
        )


def _download(url: str, path: Path, sha256: str) -> None:
    """Fetch to a temporary file, check it, move it into place."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(path.parent, os.W_OK):
            raise PermissionError(f'{path.parent} is not writable')
    except OSError as error:
        raise CheckpointError(
            f'The download cache cannot be written: {error}. Set TORCH_HOME '
            'to a folder that you can write to.'
        ) from error
    try:
        torch.hub.download_url_to_file(url, str(path), hash_prefix=sha256)
    except RuntimeError as error:
        if 'invalid hash' not in str(error):
            raise
        raise CheckpointError(
            f'The file at {url} is not the expected one: {error}. Nothing '
            'was kept.'
        ) from error
    except OSError as error:
        raise CheckpointError(
            f'{url} could not be fetched: {error}. Nothing was kept; try '
            f'again, or put the file at {path} yourself.'
        ) from error


def fetch(name: str, sha256: Optional[str] = None) -> Path:
    """Path of a released file, downloaded and checked at first use.

    Args:
        name (str): A model name with released weights.
        sha256 (str, optional): Leading hexadecimal digits of the file's
            SHA-256, eight or more. Defaults to the known digest; a file
            whose authors published none is only downloaded if the digest is
            given here.

    Raises:
        CheckpointError: Unknown name, no address or no digest to check
            with, wrong digest, failed download, or a cache that cannot be
            written.
    """
    if name not in RELEASED:
        raise CheckpointError(
            f'There are no released weights named {name!r}; there are '
            f'{sorted(RELEASED)}.'
        )
    release = RELEASED[name]
    expected = sha256 or release.sha256
    if expected is not None and len(expected) < 8:
        raise CheckpointError(
            f'A SHA-256 prefix needs 8 digits or more, got {expected!r}.'
        )
    path = cache_dir() / f'{name}.pth'
    if not path.exists():
        if release.url is None:
            raise CheckpointError(
                f'The authors published a folder, {release.page}, and no '
                f'address of the file of {name!r} in it. Download it there '
                f'and put it at {path}.'
            )
        if expected is None:
            raise CheckpointError(
                f'The authors published no SHA-256 of {name!r}, so that it '
                f'is not downloaded unchecked. Download it from '
                f'{release.page} and put it at {path}; or name its digest: '
                f'mmctx://{name}#sha256=DIGEST.'
            )
        _download(release.url, path, expected)
    elif expected is not None:
        _check_hash(path, expected)
    return path
