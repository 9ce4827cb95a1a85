"""Pickles as data: nothing that a file names is imported or called.

A name in a pickle stands for itself (:class:`Name`). What the file would
build with it is rebuilt here, from plain values, where it is a tensor, an
array or a container, and is otherwise kept as a :class:`Record`. Every step
is paid for from a budget, so that a small file cannot fill the memory.
"""

import pickle
import re
import sys
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Optional

import numpy as np

#: What one step of a pickle can cost: the largest object is an empty set.
STEP_COST = 224
MAX_DIMS = 64
ATOMS = (str, bytes, int, float, bool, type(None))


class RefusedError(Exception):
    """What a file asks for that it does not get.

    Its message shows names and numbers of the file only: to print other
    values can take forever.
    """


@dataclass(frozen=True)
class Name:
    """A class or function that a file names, never imported.

    Attributes:
        path (str): Module and name, such as ``'argparse.Namespace'``.
    """

    path: str


@dataclass(eq=False, repr=False)
class Record:
    """An object of a file as plain data, without its class.

    Attributes that do not begin with an underscore can be read as such; the
    others could ask NumPy or torch to follow a pointer of the file's.

    Attributes:
        kind (str): Module and name of the class.
        args (tuple): What its constructor would have got.
        state (Any): Its attributes, usually a dict.
    """

    kind: str
    args: tuple = ()
    state: Any = None

    def __getattr__(self, name: str) -> Any:
        state = {} if name[:1] == '_' else self.state
        if not isinstance(state, dict) or name not in state:
            raise AttributeError(f'{name!r} is not in the file')
        return state[name]


@dataclass(frozen=True)
class Storage:
    """Memory of tensors, as the file describes it.

    Attributes:
        key (str): Its name in the file.
        dtype (str): Of its elements, such as ``'float32'``.
        numel (int): Number of elements.
    """

    key: str
    dtype: str
    numel: int

    @property
    def nbytes(self) -> int:
        return self.numel * _width(self.dtype)


@dataclass(eq=False)
class TensorClaim:
    """A strided view of a storage, inside of its bounds."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(eq=False)
class ArrayClaim:
    """A NumPy array, complete once its state is set."""

    array: Optional[np.ndarray] = None


_STORAGES = {
    'Double': 'float64', 'Float': 'float32', 'Half': 'float16',
    'BFloat16': 'bfloat16', 'Long': 'int64', 'Int': 'int32',
    'Short': 'int16', 'Char': 'int8', 'Byte': 'uint8', 'Bool': 'bool',
    'ComplexFloat': 'complex64', 'ComplexDouble': 'complex128',
    'Untyped': 'uint8',
}  # fmt: skip

#: Objects that trainers save beside weights and that stay records.
_RECORDS = re.compile(
    r'(argparse\.Namespace|types\.SimpleNamespace|pathlib\.\w+|datetime\.\w+'
    r'|mmengine\.logging\.history_buffer\.HistoryBuffer(\.\w+)?'
    r'|(mmengine|mmcv\.utils)\.config(\.config)?\.\w+|yacs\.config\.\w+'
    r'|fvcore\.common\.config\.\w+|easydict\.\w+|addict\.(addict\.)?\w+'
    r'|omegaconf\.[\w.]+|typing\.Any|torch\.(device|layout)'
    r'|(pytorch_lightning|lightning\.pytorch|lightning\.fabric|'
    r'lightning_fabric)\.utilities\.(parsing|data)\.AttributeDict'
    r'|numpy\.dtypes\.\w+|numpy\.random\.[\w.]+)'
)
_TYPES = re.compile(
    r'torch\.(u?int|float|bfloat|complex|bool|half|double|long|strided)\w*'
    r'|torch\.(storage\.)?\w*Storage'
    r'|torch\.(Tensor|nn\.parameter\.(Parameter|Buffer))|numpy\.ndarray'
)
_DTYPE = re.compile(r'[|<>=]?[biufc?SU]\d{0,4}')
HISTORY_BUFFER = 'mmengine.logging.history_buffer.HistoryBuffer'


def _width(dtype: str) -> int:
    """Bytes of an element; NumPy does not know all types of torch."""
    if dtype.startswith('float8'):
        return 1
    return 2 if dtype == 'bfloat16' else np.dtype(dtype).itemsize


def storage_of(pid: tuple) -> Storage:
    """The storage that a persistent id of ``torch.save`` describes."""
    kind, name, key, _, numel, *view = pid
    if (
        kind != 'storage'
        or not isinstance(name, Name)
        or not isinstance(key, (str, int))
        or any(part is not None for part in view)
    ):
        raise RefusedError('it refers to what is outside of it')
    short = name.path.split('.')[-1].removesuffix('Storage')
    if short not in _STORAGES or not _is_size(numel):
        raise RefusedError(f'it holds a storage of {name.path}')
    return Storage(str(key), _STORAGES[short], numel)


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _tensor(
    storage: Storage, offset: int, size: tuple, stride: tuple, *rest: Any
) -> TensorClaim:
    """A tensor that lies inside its storage and fills no more than that."""
    numbers = (offset, *size, *stride)
    if (
        not isinstance(storage, Storage)
        or not all(map(_is_size, numbers))
        or not len(size) == len(stride) <= MAX_DIMS
    ):
        raise RefusedError('it describes a tensor that cannot be')
    last = offset + sum((n - 1) * s for n, s in zip(size, stride))
    if prod(size) and (last >= storage.numel or prod(size) > storage.numel):
        raise RefusedError(
            f'a tensor of shape {size} claims more elements than the '
            f'{storage.numel} that the file holds for it'
        )
    return TensorClaim(storage, offset, size, stride)


def _tensor_of_type(
    storage: Storage, offset: int, size: tuple, stride: tuple, grad: Any,
    hooks: Any, dtype: Name, *rest: Any,
) -> TensorClaim:  # fmt: skip
    """A tensor over bytes of no type."""
    kind = dtype.path.split('.')[-1]
    typed = Storage(storage.key, kind, storage.nbytes // _width(kind))
    return _tensor(typed, offset, size, stride)


def _typed_tensor(build: Name, kind: Name, args: tuple, state: Any) -> Any:
    """A tensor with attributes, which are left out."""
    return build_object(build, args)


def _encode(text: str, encoding: str) -> bytes:
    """How protocol 2 of Python 3 writes bytes."""
    if encoding not in ('latin1', 'latin-1'):
        raise RefusedError('it asks for another encoding than latin1')
    return text.encode('latin1')


def _attribute(owner: Any, name: str) -> Record:
    """The one use of ``getattr`` in MMEngine's files: its log's methods."""
    if owner != Name(HISTORY_BUFFER) or not isinstance(name, str):
        raise RefusedError('it asks for getattr')
    return Record(f'{HISTORY_BUFFER}.{name}')


def _dtype(spec: str, *rest: Any) -> Record:
    if not isinstance(spec, str) or not _DTYPE.fullmatch(spec):
        raise RefusedError('it holds an array of objects, not of numbers')
    return Record('numpy.dtype', (spec,))


def _array(
    raw: Any, dtype: Record, shape: tuple, order: str = 'C'
) -> np.ndarray:
    """An array over bytes of the file, which it must fill exactly."""
    kind = np.dtype(dtype.args[0])
    if isinstance(dtype.state, tuple) and dtype.state[1] == '>':
        kind = kind.newbyteorder('>')
    if isinstance(raw, str):  # Python 2
        raw = raw.encode('latin1')
    if not isinstance(raw, (bytes, bytearray)):
        raise RefusedError('it holds an array of objects, not of numbers')
    if not all(map(_is_size, shape)) or len(shape) > MAX_DIMS:
        raise RefusedError('it describes an array that cannot be')
    if prod(shape) * kind.itemsize != len(raw) or not kind.itemsize:
        raise RefusedError(
            f'an array of shape {shape} claims other than the {len(raw)} '
            'bytes that the file holds for it'
        )
    return np.frombuffer(raw, kind).reshape(shape, order=order)


def _scalar(dtype: Record, raw: Any) -> Any:
    return _array(raw, dtype, ()).item()


def _pairs(*args: Any) -> dict:
    """OrderedDict, and others that begin as a sequence of pairs or a dict."""
    pairs = args[-1] if args and isinstance(args[-1], (list, dict)) else ()
    pairs = [*(pairs.items() if isinstance(pairs, dict) else pairs)]
    for key, _ in pairs:
        check_key(key)
    return dict(pairs)


def _container(kind: type) -> Callable:
    def build(values: Any = ()) -> Any:
        if kind in (set, frozenset):
            for value in values:
                check_key(value)
        return kind(values)

    return build


_BUILDERS: dict[str, Callable] = {
    'torch._utils._rebuild_tensor': _tensor,
    'torch._utils._rebuild_tensor_v2': _tensor,
    'torch._utils._rebuild_tensor_v3': _tensor_of_type,
    'torch._utils._rebuild_parameter': lambda data, *rest: data,
    'torch._utils._rebuild_parameter_with_state': lambda data, *rest: data,
    'torch._tensor._rebuild_from_type_v2': _typed_tensor,
    'torch.Size': tuple,
    '_codecs.encode': _encode,
    'builtins.getattr': _attribute,
    'builtins.set': _container(set),
    'builtins.frozenset': _container(frozenset),
    'builtins.list': _container(list),
    'builtins.dict': _pairs,
    'builtins.tuple': _container(tuple),
    'builtins.bytearray': lambda data=b'', *rest: bytes(
        data if isinstance(data, (bytes, bytearray)) else b''
    ),
    'builtins.complex': lambda *numbers: complex(*numbers),
    'collections.OrderedDict': lambda *args: OrderedDict(_pairs(*args)),
    'collections.defaultdict': _pairs,
    'collections.Counter': _pairs,
    'numpy.dtype': _dtype,
    'numpy._core.multiarray._reconstruct': lambda *args: ArrayClaim(),
    'numpy._core.multiarray.scalar': _scalar,
    'numpy._core.numeric._frombuffer': lambda raw, dtype, shape, order: _array(
        raw, dtype, shape, order
    ),
}


def rebuilt(original: Mapping, items: dict) -> dict:
    """Other items in a dict of the same kind, with its versions of layers."""
    if not isinstance(original, OrderedDict):
        return items
    result = OrderedDict(items)
    if hasattr(original, '_metadata'):
        result._metadata = original._metadata
    return result


def build_object(name: Any, args: Any) -> Any:
    """What a file's call of a name gives: data, or a :class:`Record`."""
    if not isinstance(name, Name) or not isinstance(args, tuple):
        raise RefusedError('it calls what is no name')
    if name.path in _BUILDERS:
        return _BUILDERS[name.path](*args)
    if _RECORDS.fullmatch(name.path):
        return Record(name.path, args)
    raise RefusedError(f'it asks for {name.path} to be called')


def check_key(key: Any) -> None:
    """Keys are plain: to compare or hash others can take forever."""
    if isinstance(key, tuple) and len(key) < 10:
        for part in key:
            if not isinstance(part, ATOMS):
                raise RefusedError('it has a key that is no plain value')
    elif not isinstance(key, (*ATOMS, Name)):
        raise RefusedError('it has a key that is no plain value')
    if isinstance(key, int) and abs(key) > 2**48:
        raise RefusedError('it has a key beyond all numbers of use')


class _Source:
    """A file that takes no memory for more bytes than it has."""

    def __init__(self, file: Any, size: int) -> None:
        self.file, self.size, self.readline = file, size, file.readline

    def read(self, count: int) -> bytes:
        data = self.file.read(min(count, self.size))
        if len(data) < count:
            raise EOFError('the file ends within a value')
        return data


class DataUnpickler(pickle._Unpickler):
    """Reads one pickle of a file, and nothing else.

    Args:
        file (BinaryIO): Positioned at the pickle; it is left behind its end.
        budget (Budget): Pays for what is built.
        find_storage (Callable, optional): From a persistent id, a tuple, to
            a :class:`Storage`.
    """

    dispatch: dict[int, Callable] = {}

    def __init__(
        self, file: Any, budget: 'Budget', find_storage: Any = None
    ) -> None:
        super().__init__(_Source(file, budget.size), encoding='latin1')
        self.budget = budget
        self.find_storage = find_storage
        self.used_bytes: set[int] = set()

    def find_class(self, module: str, name: str) -> Name:
        path = f'{module}.{name}'
        path = re.sub(r'^__builtin__\.', 'builtins.', path)
        path = re.sub(r'^numpy\.core\.', 'numpy._core.', path)
        path = re.sub(r'^pathlib\._local\.', 'pathlib.', path)
        known = _TYPES.fullmatch(path) or _RECORDS.fullmatch(path)
        if path not in _BUILDERS and not known:
            raise RefusedError(
                f'it asks for {path}, which is no tensor or plain data, and '
                'loading it could run code'
            )
        return Name(path)

    def persistent_load(self, pid: Any) -> Storage:
        if self.find_storage is None or not isinstance(pid, tuple):
            raise RefusedError('it refers to what is outside of it')
        return self.find_storage(pid)

    def get_extension(self, code: int) -> None:
        raise RefusedError('it asks for a registered extension')

    def _build(self, name: Any, args: Any) -> Any:
        built = build_object(name, args)
        if isinstance(built, (bytes, dict, list, tuple, set, frozenset)):
            self.budget.spend(sys.getsizeof(built))
        return built

    def _instantiate(self, klass: Any, args: Any) -> None:
        self.append(self._build(klass, tuple(args)))

    def load_reduce(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = self._build(self.stack[-1], args)

    load_newobj = load_reduce

    def load_newobj_ex(self) -> None:
        kwargs = self.stack.pop()
        args = self.stack.pop()
        self.stack[-1] = self._build(self.stack[-1], (*args, kwargs))

    def load_build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Record):
            target.state = state
        elif isinstance(target, ArrayClaim):
            _, shape, dtype, fortran, raw = state
            order = 'F' if fortran else 'C'
            target.array = _array(raw, dtype, shape, order)
            # Or a few bytes could stand for any number of arrays.
            if len(raw) > MAX_DIMS and id(raw) in self.used_bytes:
                raise RefusedError('two of its arrays share their bytes')
            self.used_bytes.add(id(raw))
        elif isinstance(target, OrderedDict) and isinstance(state, dict):
            target._metadata = state.get('_metadata', {})
        elif not isinstance(target, (dict, TensorClaim)):
            raise RefusedError('it gives attributes to what has none')

    def load_setitem(self) -> None:
        value = self.stack.pop()
        self._set_items([self.stack.pop(), value])

    def load_setitems(self) -> None:
        self._set_items(self.pop_mark())

    def _set_items(self, items: list) -> None:
        target = self.stack[-1]
        if isinstance(target, Record):
            # A dict of another class.
            target.state = target.state or {}
            target = target.state
        if not isinstance(target, dict):
            raise RefusedError('it puts items into what is no dict')
        for key, value in zip(items[::2], items[1::2]):
            check_key(key)
            target[key] = value

    def load_append(self) -> None:
        value = self.stack.pop()
        self._extend([value])

    def load_appends(self) -> None:
        self._extend(self.pop_mark())

    def _extend(self, values: list) -> None:
        target = self.stack[-1]
        if isinstance(target, Record):
            target.state = target.state or []
            target = target.state
        if type(target) is not list:
            raise RefusedError('it puts items into what is no list')
        target.extend(values)

    def load_additems(self) -> None:
        values = self.pop_mark()
        if type(self.stack[-1]) is not set:
            raise RefusedError('it puts items into what is no set')
        self.stack[-1].update(_container(set)(values))

    def load_frozenset(self) -> None:
        self.append(_container(frozenset)(self.pop_mark()))

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._set_items(items)

    def load_bytearray8(self) -> None:
        self.append(self.read(int.from_bytes(self.read(8), 'little')))


class Budget:
    """Bytes that a file may take in memory beside its own.

    Args:
        size (int): Size of the file in bytes.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.rest = size + 48 * 2**20

    def spend(self, count: int) -> None:
        """Take bytes from what is left.

        Raises:
            RefusedError: There are not so many left.
        """
        self.rest -= count
        if self.rest < 0:
            raise RefusedError('it claims far more memory than its own size')


def _paid(code: int, load: Callable) -> Callable:
    """An instruction of a pickle that is paid for."""
    is_text = chr(code) in 'STUVX\x8c\x8d'

    def run(reader: DataUnpickler) -> None:
        reader.budget.spend(STEP_COST)
        load(reader)
        if is_text:
            # One wide character makes all of a text wide.
            text = reader.stack[-1]
            reader.budget.spend(max(sys.getsizeof(text) - len(text), 0))

    return run


for _code, _load in pickle._Unpickler.dispatch.items():
    _own = getattr(DataUnpickler, _load.__name__, _load)
    DataUnpickler.dispatch[_code] = (
        _load if _code == pickle.STOP[0] else _paid(_code, _own)
    )
