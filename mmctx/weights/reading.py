"""Reading checkpoint files without running what is in them."""

import re
import struct
import zipfile
from collections.abc import Mapping
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, Union

import numpy as np
import torch
from torch import Tensor

from .pickles import (
    ArrayClaim,
    Budget,
    DataUnpickler,
    Record,
    RefusedError,
    Storage,
    TensorClaim,
    rebuilt,
    storage_of,
)

#: What the legacy format begins with, and its version.
LEGACY_MAGIC, LEGACY_VERSION = 0x1950A86A20F9469CFC6C, 1001
MAX_DEPTH = 100
#: Names that wrappers of torch put into the middle of keys.
_INNER_WRAPPERS = re.compile(
    r'\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.'
)
_STATE_KEYS = ('state_dict', 'model', 'model_state_dict', 'module', 'teacher',
               'student')  # fmt: skip
_EMA_KEYS = ('state_dict_ema', 'model_ema', 'ema_state_dict', 'ema')


class CheckpointError(ValueError):
    """A checkpoint that cannot be used, and why."""


def load_file(path: Union[str, Path], map_location: Any = 'cpu') -> Any:
    """Read a checkpoint file as data.

    Tensors, NumPy arrays, containers and plain values come back as such,
    other objects as inert :class:`~mmctx.weights.pickles.Record`. Nothing
    that the file names is imported or called.

    Args:
        path (str or Path): A file written by ``torch.save`` (any version),
            ``pickle`` (detectron2) or safetensors.
        map_location (str or torch.device, optional): Where the tensors go.
            Anything else leaves them in main memory.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: The file holds more than tensors and plain data,
            claims more memory than its own size, is truncated, or is no
            checkpoint.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f'There is no checkpoint file {path}. Give the path of a '
            'downloaded file, or a released model as mmctx://NAME.'
        )
    try:
        with path.open('rb') as file:
            content = _read(file, path)
    except RefusedError as error:
        raise CheckpointError(
            f'{path} was refused: {str(error)[:300]}. Ask its author for a '
            'file with the state dict only.'
        ) from error
    except CheckpointError:
        raise
    except Exception as error:  # a damaged file can raise anything
        raise CheckpointError(
            f'{path} cannot be read as a checkpoint: it is truncated, or was '
            'not written by torch.save. '
            f'({type(error).__name__}: {str(error)[:300]}) Download it anew.'
        ) from error
    if isinstance(map_location, (str, torch.device)):
        return _to(content, torch.device(map_location))
    return content


def _to(content: Any, device: torch.device) -> Any:
    """Tensors of dicts and lists to another device."""
    if device.type == 'cpu':
        return content
    if isinstance(content, Tensor):
        return content.to(device)
    if isinstance(content, dict):
        moved = {key: _to(value, device) for key, value in content.items()}
        return rebuilt(content, moved)
    if type(content) in (list, tuple):
        return type(content)(_to(value, device) for value in content)
    return content


def _read(file: BinaryIO, path: Path) -> Any:
    """The content of a file of any known format."""
    size = path.stat().st_size
    head = file.read(16)
    file.seek(0)
    if head[:4] == b'PK\x03\x04':
        return _read_zip(file, size)
    if head.lstrip()[:1] == b'<':
        raise CheckpointError(
            f'{path} is no checkpoint but a web page, as servers send in '
            'place of a file. Download it with a browser.'
        )
    if head[8:9] == b'{':
        return _read_safetensors(path, head, size)
    return _read_stream(file, size)


def _read_zip(file: BinaryIO, size: int) -> dict:
    """The format of torch 1.6 and later: an archive that is not compressed."""
    _check_directory(file, size)
    archive = zipfile.ZipFile(file)
    records = {info.filename: info for info in archive.infolist()}
    if sum(info.file_size for info in records.values()) > size or any(
        info.compress_type != zipfile.ZIP_STORED for info in records.values()
    ):
        raise RefusedError(
            'its records are compressed or overlap, as torch.save never '
            'writes them'
        )
    pickles = [name for name in records if name.endswith('/data.pkl')]
    if len(pickles) != 1:
        raise RefusedError('it is an archive of another kind, without weights')
    root = pickles[0][: -len('data.pkl')]
    if f'{root}constants.pkl' in records:
        raise RefusedError('it is a TorchScript program, not a state dict')
    byteorder = records.get(f'{root}byteorder')
    if byteorder and bytes(_record(file, byteorder)) != b'little':
        raise RefusedError('it comes from a big-endian machine')
    stored = {}

    def find_storage(pid: tuple) -> Storage:
        storage = storage_of(pid)
        info = records.get(f'{root}data/{storage.key}')
        if info is None or info.file_size != storage.nbytes:
            raise RefusedError(
                f'it claims {storage.nbytes} bytes of memory for tensors '
                f'whose record has {info.file_size if info else "none"}'
            )
        stored[storage.key] = info
        return storage

    pickled = BytesIO(_record(file, records[pickles[0]]))
    claims = DataUnpickler(pickled, Budget(size), find_storage).load()
    memory = {key: _record(file, info) for key, info in stored.items()}
    return _materialise(claims, memory)


def _check_directory(file: BinaryIO, size: int) -> None:
    """An entry in an archive's directory takes many times its size."""
    start = max(size - 2**16 - 98, 0)
    file.seek(start)
    tail = file.read()
    end = tail.rfind(b'PK\x05\x06')
    if end < 0:
        raise EOFError('the archive has no directory')
    length = struct.unpack_from('<I', tail, end + 12)[0]
    if tail[max(end - 76, 0) :][:4] == b'PK\x06\x06':
        length = struct.unpack_from('<Q', tail, end - 36)[0]
    if length > 2**21 + size // 32:
        raise RefusedError('the directory of the archive is too large')


def _record(file: BinaryIO, info: zipfile.ZipInfo) -> bytearray:
    """The bytes of an entry, whose checksum some writers leave out."""
    file.seek(info.header_offset)
    header = file.read(30)
    file.seek(sum(struct.unpack('<HH', header[26:30])), 1)
    return _fill(file, info.file_size)


def _fill(file: BinaryIO, count: int) -> bytearray:
    data = bytearray(count)
    if file.readinto(data) != count:
        raise EOFError('the file ends within a tensor')
    return data


def _read_stream(file: BinaryIO, size: int) -> Any:
    """A pickle, or the format of torch before 1.6: several in a row."""
    budget = Budget(size)
    first = DataUnpickler(file, budget).load()
    if first != LEGACY_MAGIC:
        return _materialise(first, {})
    version = DataUnpickler(file, budget).load()
    system = DataUnpickler(file, budget).load()
    if version != LEGACY_VERSION or not system.get('little_endian'):
        raise RefusedError('its format is of another version or byte order')
    storages: dict[str, Storage] = {}

    def find_storage(pid: tuple) -> Storage:
        storage = storage_of(pid)
        if storages.setdefault(storage.key, storage) != storage:
            raise RefusedError('it describes a storage in two ways')
        return storages[storage.key]

    claims = DataUnpickler(file, budget, find_storage).load()
    if sum(storage.nbytes for storage in storages.values()) > size:
        raise EOFError('its tensors claim more memory than its own size')
    memory = {}
    for key in DataUnpickler(file, budget).load():
        storage = storages.get(key) if isinstance(key, str) else None
        if storage is None:
            raise RefusedError('it holds memory without a tensor')
        if struct.unpack('<q', file.read(8))[0] != storage.numel:
            raise RefusedError('it describes a storage in two ways')
        memory[storage.key] = _fill(file, storage.nbytes)
    return _materialise(claims, memory)


def _read_safetensors(path: Path, head: bytes, size: int) -> dict:
    if int.from_bytes(head[:8], 'little') > 2**20 + size // 16:
        raise RefusedError('its header is too large for its tensors')
    try:
        from safetensors.torch import load_file as load
    except ImportError as error:
        raise CheckpointError(
            f'{path} is a safetensors file: install the package safetensors '
            'to read it.'
        ) from error
    return load(path)


def _materialise(claims: Any, memory: Mapping[str, bytearray]) -> Any:
    """Plain data with real tensors in the place of what describes them."""
    done: dict[int, tuple[Any, int]] = {}
    limit = 10**6

    def visit(value: Any, depth: int) -> tuple[Any, int]:
        """The value, and how many values there are in it."""
        if id(value) in done:
            return done[id(value)]
        if depth > MAX_DEPTH:
            raise RefusedError('its data is nested too deeply')
        count = 1
        if isinstance(value, TensorClaim):
            result = _tensor(value, memory)
        elif isinstance(value, ArrayClaim):
            result = value.array
        elif isinstance(value, dict):
            items = {k: visit(v, depth + 1) for k, v in value.items()}
            count += sum(n for _, n in items.values())
            result = rebuilt(value, {k: v for k, (v, _) in items.items()})
            if hasattr(result, '_metadata'):
                result._metadata, n = visit(value._metadata, depth + 1)
                count += n
        elif isinstance(value, (list, tuple)):
            parts = [visit(v, depth + 1) for v in value]
            count += sum(n for _, n in parts)
            result = type(value)(v for v, _ in parts)
        elif isinstance(value, Record):
            (args, a), (state, b) = (
                visit(v, depth + 1) for v in (value.args, value.state)
            )
            count += a + b
            result = Record(value.kind, args, state)
        elif isinstance(value, Storage):
            raise RefusedError('it holds memory without a tensor')
        else:
            result = value
        if count > limit:
            raise RefusedError('a few of its values stand for millions')
        done[id(value)] = result, count
        return result, count

    return visit(claims, 0)[0]


def _tensor(claim: TensorClaim, memory: Mapping[str, bytearray]) -> Tensor:
    dtype = getattr(torch, claim.storage.dtype)
    if not prod(claim.size):
        return torch.empty(claim.size, dtype=dtype)
    flat = torch.frombuffer(memory[claim.storage.key], dtype=torch.uint8)
    width = torch.empty((), dtype=dtype).element_size()
    flat = flat[: len(flat) // width * width].view(dtype)
    return flat.as_strided(claim.size, claim.stride, claim.offset)


def unwrap(checkpoint: Any, ema: bool = False) -> dict[str, Tensor]:
    """The state dict inside a checkpoint's outer dict.

    Args:
        checkpoint (dict): A state dict, or a dict of mmengine, timm,
            detectron2, Lightning or DINO around one. What compiled and
            sharded models put into the keys is removed, and a 'module.'
            before all of them.
        ema (bool): Take the averaged weights where a file holds both.
            Defaults to False.

    Raises:
        CheckpointError: There are no tensors in it.
    """
    order = (*_STATE_KEYS, *_EMA_KEYS)
    if ema:
        order = (*_EMA_KEYS, *_STATE_KEYS)
    state = checkpoint
    while isinstance(state, Mapping):
        inner = [key for key in order if isinstance(state.get(key), Mapping)]
        if not inner:
            break
        state = state[inner[0]]
    if not isinstance(state, Mapping) or not state:
        raise CheckpointError(
            'The checkpoint holds no state dict; expected a dict of tensors, '
            f'bare or under one of {sorted(order)}.'
        )
    original = state
    # detectron2 saves arrays.
    state = {
        _INNER_WRAPPERS.sub('', str(key)): torch.from_numpy(value.copy())
        if isinstance(value, np.ndarray) and value.dtype.kind in 'biufc'
        else value
        for key, value in state.items()
    }
    others = [k for k, v in state.items() if not isinstance(v, Tensor)]
    if others:
        raise CheckpointError(
            f'The state dict holds values that are no tensors: {others[:5]}.'
        )
    if all(k.startswith('module.') for k in state):
        state = {k[len('module.') :]: v for k, v in state.items()}
    return rebuilt(original, state)
