"""Files that mean harm, and what each way of reading a file does with them.

``python -m tests.helpers.hostile FOLDER`` writes the files there, reads each
in every way, and prints one line of JSON per file and way: how it ended, and
the memory that it took at its peak.
"""

import copyreg
import io
import json
import os
import pickle
import struct
import sys
import zipfile
from argparse import Namespace
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

PROTO = b'\x80\x02'


class Call:
    """Pickles as the call of a function."""

    def __init__(self, function, *args):
        self.function, self.args = function, args

    def __reduce__(self):
        return self.function, self.args


class Named:
    """Pickles as a name that need not exist here."""

    def __init__(self, module, name):
        self.__module__, self.__qualname__ = module, name
        self.module, self.name = module, name

    def __call__(self):
        """Only what can be called is pickled as such."""


class Pickler(pickle._Pickler):
    """Writes :class:`Named`, and a class with its state, as they are."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_named(self, named):
        self.write(f'c{named.module}\n{named.name}\n'.encode())

    dispatch[Named] = save_named


def dumps(value) -> bytes:
    file = io.BytesIO()
    Pickler(file, 2).dump(value)
    return file.getvalue()


def calls(trace: Path) -> dict[str, object]:
    """Objects whose unpickling would make the folder ``trace``."""
    path, code = str(trace), f'__import__("os").mkdir({str(trace)!r})'
    nested = pickle.dumps(Call(os.mkdir, path))
    stored = io.BytesIO()
    torch.save(Call(os.mkdir, path), stored)
    factory = defaultdict(Call)
    factory.default_factory = None
    return {
        'mkdir': Call(os.mkdir, path),
        'system': Call(os.system, f'mkdir {path}'),
        'eval': Call(eval, code),
        'exec': Call(exec, code),
        'compile': Call(compile, code, 'x', 'exec'),
        'import': Call(__import__, 'antigravity'),
        'open': Call(open, path, 'w'),
        'getattr': Call(getattr, Namespace, '__init__'),
        'getattr-os': Call(getattr, Named('os', 'mkdir'), '__call__'),
        'setattr': Call(setattr, HistoryBuffer, 'mean', 'broken'),
        'nested-pickle': Call(pickle.loads, nested),
        'nested-torch': Call(torch.load, path, None, None, False),
        'bytes-storage': Call(
            Named('torch.storage', '_load_from_bytes'), stored.getvalue()
        ),
        'popen': Call(Named('subprocess', 'Popen'), ['mkdir', path]),
        'partial': Call(Named('functools', 'partial'), os.mkdir, path),
        'numpy-load': Call(np.load, path),
        'typed-tensor': Call(
            Named('torch._tensor', '_rebuild_from_type_v2'),
            os.mkdir, torch.Tensor, (path,), {},
        ),
        'wrapper': Call(
            Named('torch._utils', '_rebuild_wrapper_subclass'), os.mkdir, path
        ),
        'reconstructor': Call(copyreg._reconstructor, Namespace, object, None),
        'config': Call(Named('mmengine.config', 'Config.fromfile'), path),
        'path-touch': Call(Named('pathlib', 'Path.touch'), path),
        'history-method': Call(
            getattr, Named('mmengine.logging.history_buffer', 'np'), 'load'
        ),
        'hub': Call(torch.hub.load, path, 'x'),
        'ctypes': Call(Named('ctypes', 'string_at'), 0),
        'frombuffer': Call(np.frombuffer, b'12345678', 'O'),
    }  # fmt: skip


def raw_pickles(trace: Path) -> dict[str, bytes]:
    """Pickles that no pickler writes."""
    path = str(trace).encode()
    text = b'X' + struct.pack('<I', len(path)) + path
    grow = b']q\x00' + b''.join(
        b'](' + b'h' + bytes([i]) + b'h' + bytes([i]) + b'eq' + bytes([i + 1])
        for i in range(60)
    )
    hashed = b')q\x000' + b''.join(
        b'h%ch%c\x86q%c0' % (i, i, i + 1) for i in range(60)
    )
    copies = b'](' + b'K\x01' * 30_000 + b'eq\x00'
    copies += b'cbuiltins\ntuple\nq\x01' + b'h\x01h\x00\x85R0' * 30_000
    bomb = PROTO + grow + b'0h<'
    assert grow.endswith(b'q<')
    return {
        'dtype-of-bomb': PROTO + grow + b'0cnumpy\ndtype\nh<\x85R.',
        'bomb-of-bytes': PROTO + grow
        + b'0c_codecs\nencode\nX\x01\x00\x00\x00ah<\x86R.',
        'method-of-bomb': PROTO + grow + b'0cbuiltins\ngetattr\n'
        b'cmmengine.logging.history_buffer\nHistoryBuffer\nh<\x86R.',
        'key-of-bomb': PROTO + grow + b"0(X\x07\x00\x00\x00storage"
        b'ctorch\nFloatStorage\nh<X\x03\x00\x00\x00cpuK\x01tQ.',
        'called-bomb': bomb + b'h<R.',
        'long-float': b'F' + b'1x' * 10**6 + b'\n.',
        'inst': b"(S'" + path + b"'\nios\nmkdir\n.",
        'obj': PROTO + b'(cos\nmkdir\n' + text + b'o.',
        'newobj': PROTO + b'cos\nmkdir\n' + text + b'\x85\x81.',
        'newobj-ex': b'\x80\x04cos\nmkdir\n' + text + b'\x85}\x92.',
        'stack-global': b'\x80\x04\x8c\x02os\x8c\x05mkdir\x93'
        + text + b'\x85R.',
        'build': PROTO + b'cargparse\nNamespace\n}b.',
        'build-on-tensor': PROTO + b'](K\x01e}b.',
        'extension': PROTO + b'\x82\x01.',
        'persistent': b'Pos.mkdir\n.',
        'list-bomb': PROTO + grow + b'.',
        'hash-bomb': PROTO + hashed + b'}h<K\x01s.',
        'set-hash-bomb': b'\x80\x04' + hashed + b'\x8f(h<\x90.',
        'key-collisions': PROTO + b'}('
        + b''.join(
            b'\x8a\x0a' + (i * (2**61 - 1)).to_bytes(10, 'little') + b'K\x01'
            for i in range(1, 20_000)
        )
        + b'u.',
        'deep': PROTO + b']' * 50_000 + b'a' * 49_999 + b'.',
        'itself': PROTO + b']q\x00h\x00a.',
        'own-key': PROTO + b'}q\x00h\x00K\x01s.',
        'empty-sets': b'\x80\x04(' + b'\x8f' * 2_000_000 + b't.',
        'empty-lists': PROTO + b'(' + b']' * 3_000_000 + b't.',
        'tuple-copies': PROTO + copies + b'N.',
        'bytearray': b'\x80\x05\x96' + struct.pack('<Q', 2**40) + b'.',
        'unicode': b'\x80\x04\x8d' + struct.pack('<Q', 2**40) + b'.',
        'bytes': b'\x80\x04\x8e' + struct.pack('<Q', 2**50) + b'.',
        'frame': b'\x80\x04\x95' + struct.pack('<Q', 2**50) + b'N.',
        'long': PROTO + b'\x8b' + struct.pack('<i', 2**30) + b'.',
        'put': PROTO + b'Nr\xff\xff\xff\x7f.',
        'underflow': PROTO + b'0000RRbbss.',
        'no-stop': PROTO + b'}' * 100,
        'wide-text': PROTO + b'X' + struct.pack('<I', 40_000_004)
        + b'a' * 40_000_000 + '\U0001f600'.encode() + b'.',
        'utf8': PROTO + b'X\x02\x00\x00\x00\xff\xfe.',
        'float': PROTO + b'Fnot a number\n.',
        'huge-int': b'I' + b'9' * 1_000_000 + b'\n.',
    }  # fmt: skip


class WithState:
    """Pickles as an instance of another class with a state of ours."""

    def __init__(self, kind, state, args=()):
        self.kind, self.state, self.args = kind, state, args

    def __reduce__(self):
        return self.kind, self.args, self.state


def data_objects() -> dict[str, object]:
    """Data that no trainer writes, but a class could stumble over."""
    pointer = WithState(
        Named('argparse', 'Namespace'),
        {
            '__array_interface__': dict(
                shape=(1 << 20,), typestr='<f8', data=(8, False), version=3
            )
        },
    )
    history = Named('mmengine.logging.history_buffer', 'HistoryBuffer')
    maximum = Call(getattr, history, 'max')
    reconstruct = Named('numpy.core.multiarray', '_reconstruct')
    array = (Named('numpy', 'ndarray'), (0,), b'b')
    shared = b'x' * 4096
    return {
        'pointer': Call(history, [pointer], [pointer]),
        'pointer-in-state': WithState(
            history,
            dict(_log_history=pointer, _count_history=pointer, max_length=9),
        ),
        'pointer-in-array': WithState(
            reconstruct, (1, (8,), np.dtype('O'), False, [pointer]), array
        ),
        'pointer-as-weight': {'state_dict': {'conv1.weight': pointer}},
        'mean-is-max': WithState(
            history,
            dict(
                _log_history=np.ones(2), _count_history=np.ones(2),
                max_length=9, statistics_methods=dict(mean=maximum),
            ),
        ),
        'mean-is-text': WithState(
            history, dict(statistics_methods=dict(mean='text'))
        ),
        'array-claims': WithState(
            reconstruct, (1, (1 << 40,), np.dtype('u1'), False, b'12'), array
        ),
        'array-negative': WithState(
            reconstruct, (1, (-1, -2), np.dtype('u1'), False, b'12'), array
        ),
        'arrays-share': [
            WithState(
                reconstruct, (1, (4096,), np.dtype('u1'), False, shared), array
            )
            for _ in range(3000)
        ],
        'dtype': Call(np.dtype, [('a', 'O')]),
        'void-dtype': Call(np.dtype, 'V100000000'),
        'no-weights': {'state_dict': {'conv1.weight': 'text'}},
        'only-text': 'weights',
    }  # fmt: skip


def storages() -> dict[str, object]:
    """Tensors that are not what they say."""
    plain = torch.zeros(4, 4)
    return {
        'expanded': torch.zeros(2, 1).expand(2, 1 << 30),
        'sparse': torch.eye(3).to_sparse(),
        'sparse-csr': torch.eye(3).to_sparse_csr(),
        'meta': torch.empty(1 << 30, device='meta'),
        'quantised': torch.quantize_per_tensor(plain, 0.1, 0, torch.qint8),
        'integers': plain.to(torch.int8),
        'bool': plain.bool(),
        'complex': plain.to(torch.complex64),
        'nan': plain.fill_(float('nan')),
        'inf': torch.full((4, 4), float('inf')),
    }


def in_zip(pickled: bytes, storage: bytes = b'', kind=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w', kind) as archive:
        archive.writestr('archive/data.pkl', pickled)
        archive.writestr('archive/data/0', storage)
        archive.writestr('archive/version', b'3\n')
    return file.getvalue()


def in_legacy(pickled: bytes) -> bytes:
    system = dict(protocol_version=1001, little_endian=True)
    begin = [0x1950A86A20F9469CFC6C, 1001, system]
    return b''.join(pickle.dumps(v, 2) for v in begin) + pickled + dumps([])


def tensor_pickle(count: int, size: tuple, stride: tuple) -> bytes:
    """A pickle of one tensor over a storage of ``count`` floats."""
    pid = ('storage', Named('torch', 'FloatStorage'), '0', 'cpu', count)
    body = dumps(pid)[2:-1]
    rest = dumps((0, size, stride, False, {}))[2:-1]
    name = b'ctorch._utils\n_rebuild_tensor_v2\n'
    # The items of the second tuple behind the storage, in one tuple.
    items = b''.join(dumps(v)[2:-1] for v in (0, size, stride, False, {}))
    assert rest
    return (
        PROTO + b'}X\x0c\x00\x00\x00conv1.weight'
        + name + b'(' + body + b'Q' + items + b'tRs.'
    )  # fmt: skip


def files(trace: Path) -> dict[str, bytes]:
    """All files by name."""
    pickles = {k: dumps({'a': v}) for k, v in calls(trace).items()}
    pickles.update({k: dumps({'a': v}) for k, v in data_objects().items()})
    pickles.update(raw_pickles(trace))
    result = {}
    for name, pickled in pickles.items():
        result[f'{name}.pkl'] = pickled
        if len(pickled) < 10**6:
            result[f'{name}.zip.pth'] = in_zip(pickled)
            result[f'{name}.legacy.pth'] = in_legacy(pickled)
    for name, tensor in storages().items():
        for legacy in (False, True):
            file = io.BytesIO()
            try:
                torch.save(
                    {'state_dict': {'conv1.weight': tensor}},
                    file,
                    _use_new_zipfile_serialization=not legacy,
                )
            except RuntimeError:
                continue  # torch does not write it
            kind = 'legacy' if legacy else 'zip'
            result[f'tensor-{name}.{kind}.pth'] = file.getvalue()
    whole = tensor_pickle(4, (2, 2), (2, 1))
    for name, (count, size, stride) in {
        'strides': (4, (2, 1 << 40), (1, 0)),
        'beyond': (4, (2, 3), (3, 1)),
        'offset': (4, (4,), (1 << 40,)),
        'negative': (4, (-2, -2), (2, 1)),
        'storage': (1 << 34, (1 << 34,), (1,)),
        'short': (5, (5,), (1,)),
        'dims': (4, (1,) * 5000, (1,) * 5000),
        'overlap': (4, (4, 4), (1, 0)),
    }.items():
        claim = tensor_pickle(count, size, stride)
        result[f'claims-{name}.zip.pth'] = in_zip(claim, b'\0' * 16)
        result[f'claims-{name}.legacy.pth'] = in_legacy(claim)
    good = in_zip(whole, b'\0' * 16)
    cut = bytearray(good)
    end = good.rindex(b'PK\x05\x06')
    cut[end + 12 : end + 16] = b'\xff\xff\xff\x7f'
    zeros = dumps({'a': b''}) + b'\0' * 10**8
    header = b'{"a":{"dtype":"F32","shape":[%d],"data_offsets":[0,4]}}'
    result.update(
        {
            'truncated.pth': good[: len(good) // 2],
            'directory.pth': bytes(cut),
            'deflated.pth': in_zip(zeros, b'', zipfile.ZIP_DEFLATED),
            'no-pickle.pth': in_zip(b'', b''),
            'zip-of-others.pth': good.replace(b'data.pkl', b'data.txt'),
            'empty.pth': b'',
            'page.pth': b'<!DOCTYPE html><html>Sign in</html>',
            'zeros.pth': b'\0' * 1000,
            'noise.pth': bytes(range(256)) * 40,
            'wide.safetensors': b'\xff' * 7 + b'\x7f{' + b'x' * 100,
            'claims.safetensors': struct.pack('<Q', len(header % 9))
            + header % 9 + b'\0' * 4,
            'text.safetensors': struct.pack('<Q', 9) + b'{no json]',
        }
    )  # fmt: skip
    many = io.BytesIO()
    with zipfile.ZipFile(many, 'w') as archive:
        archive.writestr('archive/data.pkl', dumps({}))
        for i in range(60_000):
            archive.writestr(f'{i}', b'')
    result['entries.pth'] = many.getvalue()
    return result


def ways_in() -> dict[str, object]:
    """Functions of a path, one for each way to read a file."""
    from mmengine.runner import load_checkpoint as of_mmengine

    from mmctx import get_backbone
    from mmctx.checkpoints import load_checkpoint, load_file, use_safe_reader
    from tests.helpers.backbones import TINY, build_tiny
    from tests.helpers.scripts import load_script

    convert = load_script('tools/model_converters/convert.py')
    use_safe_reader()
    model = build_tiny('CoTNet')

    def pretrained(path):
        cfg = dict(type='Pretrained', checkpoint=path)
        build_tiny('CoTNet', init_cfg=cfg).init_weights()

    return {
        'load_file': load_file,
        'load_checkpoint': load_checkpoint,
        'pretrained': pretrained,
        'zoo': lambda path: get_backbone(
            'cotnet50', pretrained=path, **TINY['CoTNet']
        ),
        'convert': lambda path: convert.main([path, f'{path}.out']),
        'mmengine': lambda path: of_mmengine(model, path, map_location='cpu'),
    }


def memory(kind: str) -> int:
    status = Path('/proc/self/status').read_text()
    return 1024 * int(status.split(f'{kind}:')[1].split()[0])


def measure(way, path: str) -> dict:
    """How reading a file ends, and the memory that it takes at its peak."""
    Path('/proc/self/clear_refs').write_text('5')
    before = memory('VmRSS')
    try:
        way(path)
        error = None
    except BaseException as raised:
        error = f'{type(raised).__name__}: {raised}'[:300]
    return dict(error=error, memory=memory('VmHWM') - before)


def main(folder: Path) -> None:
    trace = folder / 'executed'
    methods = dict(HistoryBuffer._statistics_methods)
    ways = ways_in()
    # What each way keeps from its first use is not the files'.
    torch.save({'conv1.weight': torch.zeros(1)}, folder / 'first.pth')
    for read in ways.values():
        measure(read, str(folder / 'first.pth'))
    for name, content in files(trace).items():
        path = folder / name
        path.write_bytes(content)
        for way, read in ways.items():
            result = measure(read, str(path))
            result.update(
                file=name,
                way=way,
                size=len(content),
                executed=trace.exists(),
                changed=methods != HistoryBuffer._statistics_methods,
            )
            print(json.dumps(result), flush=True)
        path.unlink()


if __name__ == '__main__':
    main(Path(sys.argv[1]))
