"""Files from disk and from the network, good and bad."""

import hashlib
import http.server
import os
import pickle
import threading
from argparse import Namespace

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import load_checkpoint as mmengine_load_checkpoint

from mmctx import get_backbone, get_model
from mmctx.checkpoints import (
    RELEASED,
    CheckpointError,
    fetch,
    load_backbone,
    load_file,
)
from mmctx.weights.addresses import Released
from tests.helpers.backbones import build_tiny
from tests.helpers.parity import Fixture


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    return tmp_path / 'torch' / 'hub' / 'mmctx'


@pytest.fixture(scope='module')
def released_file(tmp_path_factory):
    path = tmp_path_factory.mktemp('released') / 'cotnet50.pth.tar'
    torch.save({'state_dict': Fixture('cotnet50').released}, path)
    return path


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = self.server.body
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.cut])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(released_file, monkeypatch):
    """Serves the file as 'cotnet50'; `cut` ends each answer early."""
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    server.body, server.cut = released_file.read_bytes(), None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f'http://127.0.0.1:{server.server_port}/cotnet50.pth.tar'
    digest = hashlib.sha256(server.body).hexdigest()
    monkeypatch.setitem(RELEASED, 'cotnet50', Released(url, url, digest))
    yield server
    server.shutdown()


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize('protocol', ['zip', 'pickle', 'legacy'])
def test_code_in_a_file_is_refused_and_never_run(tmp_path, protocol):
    trace = tmp_path / 'executed'
    content = {'state_dict': {'conv1.weight': Hostile(trace)}}
    path = tmp_path / 'hostile.pth'
    if protocol == 'pickle':
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(
            content, path, _use_new_zipfile_serialization=protocol == 'zip'
        )
    for use in (
        load_file,
        lambda p: build_tiny('CoTNet', init_cfg=pretrained(p)).init_weights(),
    ):
        with pytest.raises(CheckpointError, match='refused|cannot be read'):
            use(path)
    assert not trace.exists()


def pretrained(checkpoint, **kwargs):
    return dict(type='Pretrained', checkpoint=str(checkpoint), **kwargs)


def test_truncated_file(tmp_path, released_file):
    path = tmp_path / 'cut.pth'
    path.write_bytes(released_file.read_bytes()[:100_000])
    with pytest.raises(CheckpointError, match='truncated.*anew'):
        load_file(path)


@pytest.mark.parametrize('content', [b'', b'<html>Sign in</html>'])
def test_not_a_checkpoint(tmp_path, content):
    path = tmp_path / 'page.pth'
    path.write_bytes(content)
    with pytest.raises(CheckpointError):
        load_file(path)


def test_missing_file():
    with pytest.raises(FileNotFoundError, match=r'no checkpoint file.*mmctx:'):
        load_file('nowhere.pth')


def test_plain_data_of_trainers_is_accepted(tmp_path):
    path = tmp_path / 'a.pth'
    content = dict(
        state_dict={},
        message_hub=HistoryBuffer([1.0], [1]),
        args=Namespace(lr=0.1),
        history=np.arange(3.0),
    )
    torch.save(content, path)
    loaded = load_file(path)
    assert loaded['message_hub'].current() == 1.0
    assert loaded['args'].lr == 0.1 and loaded['history'].sum() == 3


class Method:
    """Pickles as an attribute of another object than MMEngine's log."""

    def __reduce__(self):
        return getattr, (Namespace, '__init__')


def test_attributes_of_other_objects_are_refused(tmp_path):
    torch.save({'state_dict': Method()}, tmp_path / 'a.pth')
    with pytest.raises(CheckpointError, match='refused.*getattr'):
        load_file(tmp_path / 'a.pth')


def test_download_is_checked_cached_and_converted(server, cache):
    path = fetch('cotnet50')
    assert path == cache / 'cotnet50.pth'
    assert os.listdir(cache) == ['cotnet50.pth']
    server.shutdown()  # the second use needs no network
    expected = Fixture('cotnet50').released['conv1.weight']
    backbone = get_backbone('cotnet50', pretrained=True)
    assert torch.equal(backbone.stem[0].weight, expected)
    model = get_model('cotnet50', pretrained=True)
    assert torch.equal(model.backbone.stem[0].weight, expected)


def test_address_in_a_config(server):
    """With and without a prefix, on our backbone and on a whole model."""
    expected = Fixture('cotnet50').released
    for prefix in ({}, dict(prefix='backbone.'), dict(prefix='backbone')):
        cfg = pretrained('mmctx://cotnet50', **prefix)
        backbone = get_backbone('cotnet50', out_indices=0, init_cfg=cfg)
        backbone.init_weights()
        assert torch.equal(backbone.stem[0].weight, expected['conv1.weight'])
    model = get_model('cotnet50')
    mmengine_load_checkpoint(model, 'mmctx://cotnet50', strict=True)
    assert torch.equal(model.head.fc.weight, expected['fc.weight'])


def test_other_number_of_classes(server):
    model = get_model('cotnet50', pretrained=True, num_classes=7)
    assert model.head.fc.weight.shape == (7, 2048)
    expected = Fixture('cotnet50').released['conv1.weight']
    assert torch.equal(model.backbone.stem[0].weight, expected)


def test_wrong_hash_is_refused(server, cache):
    with pytest.raises(CheckpointError, match='not the expected one'):
        fetch('cotnet50', sha256='0' * 64)
    assert os.listdir(cache) == []


def test_interrupted_download_leaves_nothing(server, cache):
    server.cut = 10_000
    with pytest.raises(CheckpointError):
        fetch('cotnet50')
    assert os.listdir(cache) == []
    server.cut = None
    assert fetch('cotnet50').exists()


def test_damaged_cache_is_noticed(server, cache):
    cache.mkdir(parents=True)
    (cache / 'cotnet50.pth').write_bytes(b'damaged')
    with pytest.raises(CheckpointError, match='delete it'):
        fetch('cotnet50')


def test_unwritable_cache(server, tmp_path, monkeypatch):
    (tmp_path / 'file').write_text('')
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'file'))
    with pytest.raises(CheckpointError, match='Set TORCH_HOME'):
        fetch('cotnet50')


def test_unreachable_server(monkeypatch, cache):
    url = 'http://127.0.0.1:1/x'
    monkeypatch.setitem(RELEASED, 'cotnet50', Released(url, url, 'a' * 64))
    with pytest.raises(CheckpointError, match='could not be fetched'):
        fetch('cotnet50')
    assert os.listdir(cache) == []


def test_no_download_without_a_digest(server, cache, monkeypatch):
    known = RELEASED['cotnet50']
    unchecked = Released(known.url, 'https://page', None)
    monkeypatch.setitem(RELEASED, 'cotnet50', unchecked)
    with pytest.raises(CheckpointError, match='https://page.*sha256=DIGEST'):
        fetch('cotnet50')
    backbone = get_backbone('cotnet50')
    load_backbone(backbone, f'mmctx://cotnet50#sha256={known.sha256}')
    with pytest.raises(CheckpointError, match='8 digits'):
        fetch('cotnet50', sha256='abc')
    with pytest.raises(CheckpointError, match='not of the form'):
        load_backbone(backbone, 'mmctx://cotnet50#md5=1')


def test_no_address_of_the_file(cache):
    for digest in (None, 'a' * 64):
        with pytest.raises(
            CheckpointError, match=r"folder, https://.*'contnet_m'.*put it at"
        ):
            fetch('contnet_m', sha256=digest)
    assert not cache.exists()


def test_file_put_into_the_cache_by_hand(released_file, cache):
    cache.mkdir(parents=True)
    (cache / 'cotnet50.pth').write_bytes(released_file.read_bytes())
    assert RELEASED['cotnet50'].sha256 is None
    load_backbone(get_backbone('cotnet50'), 'mmctx://cotnet50')


@pytest.mark.parametrize('name', ['cotnet5', 'contnet_m.pth'])
def test_unknown_name(name):
    with pytest.raises(CheckpointError, match='no released weights'):
        fetch(name)


def test_local_released_file(released_file):
    cfg = pretrained(released_file)
    backbone = get_backbone('cotnet50', init_cfg=cfg)
    backbone.init_weights()
    expected = Fixture('cotnet50').released['conv1.weight']
    assert torch.equal(backbone.stem[0].weight, expected)


@pytest.mark.parametrize('outer', ['backbone.', ''])
def test_own_checkpoints(tmp_path, outer):
    """Those of a detector with our backbone, or of a bare backbone."""
    source = build_tiny('CoTNet')
    state = {f'{outer}{k}': v for k, v in source.state_dict().items()}
    if outer:
        state['neck.lateral_convs.0.conv.weight'] = torch.zeros(1)
    torch.save({'state_dict': state}, tmp_path / 'a.pth')
    target = build_tiny('CoTNet', init_cfg=pretrained(tmp_path / 'a.pth'))
    target.init_weights()
    for key, value in target.state_dict().items():
        assert torch.equal(value, source.state_dict()[key])


def test_misfit_changes_nothing(tmp_path):
    torch.save(build_tiny('CoTNeXt').state_dict(), tmp_path / 'a.pth')
    target = build_tiny('CoTNet')
    before = {k: v.clone() for k, v in target.state_dict().items()}
    with pytest.raises(CheckpointError, match='does not fit this CoTNet'):
        load_backbone(target, str(tmp_path / 'a.pth'))
    with pytest.raises(CheckpointError, match="no keys below 'encoder.'"):
        load_backbone(target, str(tmp_path / 'a.pth'), prefix='encoder.')
    for key, value in target.state_dict().items():
        assert torch.equal(value, before[key])
