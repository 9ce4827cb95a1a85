"""Reading checkpoint files without running what is in them."""

import argparse
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor


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
            'downloaded file, or a released model as mmctx://NAME.'
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
