"""Files of every kind that people have, and files that mean harm."""

import io
import json
import pickle
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader
from mmengine.runner import load_checkpoint as load_with_mmengine

from mmctx import get_backbone, get_model
from mmctx.checkpoints import (
    CheckpointError,
    load_backbone,
    load_checkpoint,
    load_file,
    unwrap,
    use_safe_reader,
)
from mmctx.engine import cli
from mmctx.weights.fit import fit
from tests.helpers import hostile
from tests.helpers.backbones import TINY, build_tiny
from tests.helpers.scripts import ROOT, load_script

DATA = ROOT / 'tests/data/checkpoints'
CLASSES = 5


@pytest.fixture
def safe_reader(monkeypatch):
    """MMEngine with our reader, until the end of a test."""
    monkeypatch.setattr(
        CheckpointLoader, '_schemes', dict(CheckpointLoader._schemes)
    )
    use_safe_reader()


@pytest.fixture(scope='module')
def classifier():
    torch.manual_seed(0)
    model = get_model('cotnet50', num_classes=CLASSES, **TINY['CoTNet'])
    return model.state_dict()


def save(content, path, **options):
    torch.save(content, path, **options)


def save_legacy(content, path):
    torch.save(content, path, _use_new_zipfile_serialization=False)


def save_pickle(content, path):
    arrays = {k: v.numpy() for k, v in content.items()}
    outer = dict(model=arrays, __author__='x', matching_heuristics=True)
    path.write_bytes(pickle.dumps(outer))


def save_safetensors(content, path):
    pytest.importorskip('safetensors.torch').save_file(content, path)


def prefixed(prefix):
    return lambda state, path: save(
        {'state_dict': {f'{prefix}{k}': v for k, v in state.items()}}, path
    )


#: Rows of the table in docs/weights.md: file name and what writes it.
KINDS = {
    'torch >= 1.6': ('a.pth', save),
    'torch, protocol 5': (
        'a.pt',
        lambda s, p: save(dict(s), p, pickle_protocol=5),
    ),
    'torch < 1.6': ('a.pth.tar', save_legacy),
    'pickle of arrays': ('a.pkl', save_pickle),
    'safetensors': ('a.safetensors', save_safetensors),
    'arrays in torch': (
        'a.pth',
        lambda s, p: save({'model': {k: v.numpy() for k, v in s.items()}}, p),
    ),
    'half': (
        'a.pth',
        lambda s, p: save(
            {k: v.half() if v.is_floating_point() else v
             for k, v in s.items()}, p
        ),
    ),
    'mmengine': (
        'a.pth',
        lambda s, p: save(
            dict(
                meta=dict(epoch=1),
                state_dict=s,
                message_hub=dict(log_scalars=dict(x=HistoryBuffer([1], [1]))),
            ),
            p,
        ),
    ),
    'timm': (
        'a.pth.tar',
        lambda s, p: save(
            dict(arch='x', state_dict=s, args=Namespace(lr=0.1), metric=1.0),
            p,
        ),
    ),
    'detectron2': ('a.pth', lambda s, p: save(dict(model=s, iteration=1), p)),
    'lightning': ('a.ckpt', prefixed('model.')),
    'distributed': ('a.pth', prefixed('module.')),
    'compiled': ('a.pth', prefixed('_orig_mod.')),
    'compiled, distributed': ('a.pth', prefixed('module._orig_mod.')),
    'teacher': ('a.pth', prefixed('teacher.')),
}  # fmt: skip


def ways_in(path):
    """For each way to load a file, the tensors of the model it fills."""
    tiny = TINY['CoTNet']
    cfg = dict(type='Pretrained', checkpoint=str(path))
    backbone = build_tiny('CoTNet', init_cfg=cfg)
    backbone.init_weights()
    yield {f'backbone.{k}': v for k, v in backbone.state_dict().items()}
    backbone = get_backbone('cotnet50', pretrained=str(path), **tiny)
    yield {f'backbone.{k}': v for k, v in backbone.state_dict().items()}
    yield get_model(
        'cotnet50', pretrained=str(path), num_classes=CLASSES, **tiny
    ).state_dict()
    yield {
        k: v
        for k, v in fit(unwrap(load_file(path)), backbone).require('').items()
        if k.startswith('backbone.')
    }


@pytest.mark.parametrize('kind', KINDS)
def test_every_kind_of_file(kind, classifier, tmp_path):
    name, write = KINDS[kind]
    write(classifier, tmp_path / name)
    tolerance = dict(rtol=1e-3, atol=1e-3) if kind == 'half' else {}
    for loaded in ways_in(tmp_path / name):
        for key, value in loaded.items():
            assert value.dtype == classifier[key].dtype
            torch.testing.assert_close(value, classifier[key], **tolerance)


def test_tools_read_with_the_same_reader(classifier, tmp_path, safe_reader):
    """But for prefixes: MMEngine's loader knows those of the model only."""
    for kind in KINDS.keys() - {'half', 'lightning', 'teacher'}:
        name, write = KINDS[kind]
        write(classifier, tmp_path / name)
        model = get_model('cotnet50', num_classes=CLASSES, **TINY['CoTNet'])
        content = load_with_mmengine(model, str(tmp_path / name), strict=True)
        for key, value in model.state_dict().items():
            assert torch.equal(value, classifier[key])
    write_all = KINDS['mmengine'][1]
    write_all(classifier, tmp_path / 'a.pth')
    content = CheckpointLoader.load_checkpoint(str(tmp_path / 'a.pth'))
    versions = content['state_dict']._metadata
    assert versions['backbone.stem.1'] == dict(version=2)
    log = content['message_hub']['log_scalars']['x']
    assert isinstance(log, HistoryBuffer) and log.current() == 1


def test_files_of_old_versions():
    """Written by torch 1.5.1, and by mmengine and pickle with NumPy 1.26."""
    legacy = load_file(DATA / 'torch1_legacy.pth')
    assert legacy['state_dict']['0.weight'].shape == (2, 3, 3, 3)
    momentum = legacy['optimizer']['state'].values()
    assert len([s['momentum_buffer'] for s in momentum]) == 4
    assert legacy['best'] == 0.5 and legacy['args'].lr == 0.1
    mmengine = load_file(DATA / 'numpy1_mmengine.pth')
    log = mmengine['message_hub']['log_scalars']['train/loss']
    assert log.state['_log_history'].tolist() == [1.5, 0.5]
    assert mmengine['message_hub']['runtime_info']['score'] == 0.25
    pickled = unwrap(load_file(DATA / 'numpy1_detectron2.pkl'))
    for key, value in mmengine['state_dict'].items():
        assert torch.equal(pickled[key], value)


def test_plain_data_of_trainers(tmp_path):
    content = dict(
        state_dict={},
        log=HistoryBuffer([1.0], [1]),
        args=Namespace(lr=0.1, path=Path('/a')),
        history=np.arange(3.0),
        order=np.asfortranarray(np.arange(6).reshape(2, 3)),
        score=np.float32(0.5),
        random=(torch.get_rng_state(), np.random.get_state()),
        nested=dict(t=(1, [2.5, {3}]), size=torch.Size([1, 2]), raw=b'abc'),
    )
    for options in ({}, dict(pickle_protocol=4)):
        torch.save(content, tmp_path / 'a.pth', **options)
        loaded = load_file(tmp_path / 'a.pth')
        assert loaded['log'].state['_log_history'] == np.ones(1)
        assert loaded['args'].lr == 0.1
        assert loaded['args'].path.kind.startswith('pathlib.')
        with pytest.raises(AttributeError, match='is not in the file'):
            _ = loaded['args'].mode
        assert np.array_equal(loaded['history'], content['history'])
        assert np.array_equal(loaded['order'], content['order'])
        assert loaded['score'] == 0.5
        assert torch.equal(loaded['random'][0], content['random'][0])
        assert np.array_equal(loaded['random'][1][1], content['random'][1][1])
        assert loaded['nested'] == content['nested']


@pytest.mark.parametrize(
    'dtype',
    ['float64', 'bfloat16', 'int64', 'uint8', 'bool', 'complex64', 'uint16',
     'float8_e4m3fn'],
)  # fmt: skip
def test_every_type_and_layout_of_tensors(dtype, tmp_path):
    if torch.__version__ < (2, 6) and dtype in ('uint16', 'float8_e4m3fn'):
        pytest.skip('torch 2.5 writes no uint16 and fills no float8')
    dtype = getattr(torch, dtype)
    base = torch.arange(24.0).reshape(2, 3, 4).to(dtype)
    tensors = [base, base[1:, ::2].mT, base[:0], base[0, 0, 0]]
    for write in (save, save_legacy):
        write(tensors, tmp_path / 'a.pth')
        for ours, theirs in zip(load_file(tmp_path / 'a.pth'), tensors):
            assert ours.dtype == dtype and ours.shape == theirs.shape
            assert torch.equal(ours.to(torch.complex64),
                               theirs.to(torch.complex64))  # fmt: skip


@pytest.mark.parametrize(
    'name, content, message',
    [
        ('missing.pth', None, r'no checkpoint file.*mmctx:'),
        ('empty.pth', b'', 'cannot be read.*anew'),
        ('page.pth', b'<html>Sign in</html>', 'web page'),
        ('noise.pth', b'noise' * 99, 'cannot be read|was refused'),
    ],
)
def test_what_is_no_checkpoint(name, content, message, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises((CheckpointError, FileNotFoundError), match=message):
        load_file(tmp_path / name)


def test_truncated_file(classifier, tmp_path):
    for write in (save, save_legacy, save_pickle, save_safetensors):
        write(classifier, tmp_path / 'a.pth')
        whole = (tmp_path / 'a.pth').read_bytes()
        for length in (100, len(whole) // 2, len(whole) - 1):
            (tmp_path / 'a.pth').write_bytes(whole[:length])
            with pytest.raises(CheckpointError, match='truncated.*anew'):
                load_file(tmp_path / 'a.pth')


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda t: t.to(torch.int8), 'torch.int8'),
        (lambda t: t.bool(), 'torch.bool'),
        (lambda t: t.to(torch.complex64), 'torch.complex64'),
        (lambda t: t.to(torch.float8_e4m3fn), 'torch.float8'),
        (lambda t: t.fill_(float('nan')), 'NaN or infinite'),
        (lambda t: t.fill_(float('inf')), 'NaN or infinite'),
        (lambda t: t.to_sparse(), 'sparse'),
        (lambda t: t.to('meta'), 'without values'),
        (
            lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
            'quantised',
        ),
    ],
)
def test_values_that_are_no_weights(change, message):
    """One of them, and nothing of the model changes."""
    source, target = build_tiny('CoTNet'), build_tiny('CoTNet')
    key = [k for k in source.state_dict() if k.endswith('weight')][-1]
    state = {k: v.clone() for k, v in source.state_dict().items()}
    state[key] = change(state[key])
    before = {k: v.clone() for k, v in target.state_dict().items()}
    with pytest.raises(CheckpointError, match=f'{key} .*{message}'):
        target.load_state_dict(fit(state, target).require('Refused.'))
    for k, value in target.state_dict().items():
        assert torch.equal(value, before[k])


def test_large_values_are_finite():
    """Though their sum is not."""
    backbone = build_tiny('CoTNet')
    state = {k: v.clone() for k, v in backbone.state_dict().items()}
    state['stem.0.weight'].fill_(3e38)
    assert not fit(state, backbone).complaints()


@pytest.mark.parametrize('channels', [1, 2, 4, 5, 8])
@pytest.mark.parametrize('name', ['CoTNet', 'SECoTNetD', 'CoaT', 'ConTNet'])
def test_other_numbers_of_input_channels(name, channels, tmp_path):
    """As timm makes one kernel from the other."""
    source = build_tiny(name)
    torch.save(source.state_dict(), tmp_path / 'a.pth')
    cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'a.pth'))
    target = build_tiny(name, in_channels=channels, init_cfg=cfg)
    with pytest.raises(CheckpointError, match='adapt_input=True'):
        target.init_weights()
    target = build_tiny(
        name, in_channels=channels, init_cfg=dict(cfg, adapt_input=True)
    )
    target.init_weights()
    adapt = pytest.importorskip('timm.models').adapt_input_conv
    (key,) = (
        k
        for k, v in target.state_dict().items()
        if v.shape != source.state_dict()[k].shape
    )
    torch.testing.assert_close(
        target.state_dict()[key], adapt(channels, source.state_dict()[key])
    )


def test_misspelt_option_of_pretrained(tmp_path):
    torch.save(build_tiny('CoTNet').state_dict(), tmp_path / 'a.pth')
    cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'a.pth'))
    backbone = build_tiny('CoTNet', init_cfg=dict(cfg, adapt_inputs=True))
    with pytest.raises(TypeError, match='adapt_inputs'):
        backbone.init_weights()


#: Rows of the first table in docs/weights.md.
FORMATS = ('torch >= 1.6', 'torch < 1.6', 'pickle of arrays', 'safetensors',
           'half')  # fmt: skip


@pytest.mark.parametrize('kind', FORMATS)
def test_convert_reads_every_format(kind, tmp_path):
    """So does ``load_checkpoint``, of what convert.py read and wrote."""
    convert = load_script('tools/model_converters/convert.py')
    state = get_model('container_light').state_dict()
    name, write = KINDS[kind]
    write(state, tmp_path / name)
    argv = [str(tmp_path / name), str(tmp_path / 'b.pth')]
    assert cli.run(convert.main, argv) == 0
    tolerance = dict(rtol=1e-3, atol=1e-3) if kind == 'half' else {}
    for path in (tmp_path / 'b.pth', tmp_path / name):
        loaded = load_checkpoint(str(path))
        for key, value in state.items():
            if value.is_floating_point():
                torch.testing.assert_close(
                    loaded[key].float(), value, **tolerance
                )


@pytest.fixture(scope='module')
def outcomes(tmp_path_factory):
    """What reading each hostile file in each way led to."""
    if not Path('/proc/self/clear_refs').exists():
        pytest.skip('the peak of memory is measured on Linux')
    folder = tmp_path_factory.mktemp('hostile')
    done = subprocess.run(
        [sys.executable, '-m', 'tests.helpers.hostile', str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    return [json.loads(line) for line in lines if line[:1] == '{']


def test_hostile_files_do_no_harm(outcomes):
    assert len({outcome['file'] for outcome in outcomes}) > 200
    for outcome in outcomes:
        assert not outcome['executed'], outcome
        assert not outcome['changed'], outcome
        assert outcome['memory'] <= 2 * outcome['size'] + 2**26, outcome
        error = outcome['error'] or ''
        assert not error or error.startswith('CheckpointError'), outcome


def test_hostile_files_fill_no_model(outcomes):
    """The data of some may be looked at, and comes to nothing else."""
    for outcome in outcomes:
        if outcome['way'] not in ('load_file', 'mmengine'):
            assert outcome['error'], outcome
    refused = [o for o in outcomes if o['way'] == 'load_file' and o['error']]
    assert len(refused) > 180


def test_message_of_a_refusal(tmp_path):
    files = hostile.files(tmp_path / 'executed')
    for name, what in {
        'system.zip.pth': 'refused: it asks for (posix|nt).system, which',
        'claims-strides.zip.pth': 'claims more elements than the 4',
        'claims-storage.zip.pth': 'claims 68719476736 bytes',
        'deflated.pth': 'compressed or overlap',
        'list-bomb.pkl': 'stand for millions|nested too deeply',
        'getattr.legacy.pth': 'refused: it asks for getattr',
    }.items():
        path = tmp_path / name
        path.write_bytes(files[name])
        with pytest.raises(CheckpointError, match=what):
            load_file(path)
        with pytest.raises(CheckpointError, match=what):
            load_backbone(build_tiny('CoTNet'), str(path))


def test_views_of_one_storage_stay_so(tmp_path):
    """Two keys of one storage stay two views of one tensor."""
    shared = torch.arange(4.0)
    file = io.BytesIO()
    torch.save(dict(a=shared, b=shared[1:]), file)
    (tmp_path / 'a.pth').write_bytes(file.getvalue())
    loaded = load_file(tmp_path / 'a.pth')
    loaded['a'][1] = 7
    assert loaded['b'][0] == 7
