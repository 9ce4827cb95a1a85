"""Files from this machine and from the network, whole and broken."""

import contextlib
import hashlib
import http.server
import io
import os
import threading

import pytest
import torch
from mmengine.fileio import LocalBackend, register_backend
from mmengine.logging import MMLogger
from mmengine.runner import load_checkpoint as mmengine_load_checkpoint

from mmctx import get_backbone, get_model
from mmctx.checkpoints import (
    RELEASED,
    CheckpointError,
    fetch,
    load_backbone,
)
from mmctx.weights.released import Released
from tests.helpers.backbones import TINY, build_tiny
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
        if self.server.redirect not in (None, self.path):
            self.send_response(302)
            self.send_header('Location', self.server.redirect)
            self.end_headers()
            return
        self.server.requests += 1
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
    server.redirect, server.requests = None, 0
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f'http://127.0.0.1:{server.server_port}/cotnet50.pth.tar'
    digest = hashlib.sha256(server.body).hexdigest()
    monkeypatch.setitem(RELEASED, 'cotnet50', Released(url, url, digest))
    yield server
    server.shutdown()


def pretrained(checkpoint, **kwargs):
    return dict(type='Pretrained', checkpoint=str(checkpoint), **kwargs)


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


def test_an_interruption_leaves_nothing(server, cache, monkeypatch):
    """Ctrl-C after the first piece."""

    class Bar(contextlib.nullcontext):
        def __init__(self, **options):
            super().__init__(self)

        def update(self, count):
            raise KeyboardInterrupt

    monkeypatch.setattr('mmctx.weights.download.tqdm', Bar)
    with pytest.raises(KeyboardInterrupt):
        fetch('cotnet50')
    assert os.listdir(cache) == []


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
    with pytest.raises(
        CheckpointError, match=r'fetched.*https_proxy.*put it at'
    ):
        fetch('cotnet50')
    assert os.listdir(cache) == []


@pytest.fixture
def no_digest(server, monkeypatch):
    """The served file as its authors left it: without a digest."""
    known = RELEASED['cotnet50']
    page = 'https://page/of/the/authors'
    monkeypatch.setitem(RELEASED, 'cotnet50', Released(known.url, page, None))
    return known.sha256


def test_strict_downloads(no_digest, monkeypatch):
    """Without a digest, nothing is downloaded."""
    monkeypatch.setenv('MMCTX_STRICT_DOWNLOADS', '1')
    with pytest.raises(CheckpointError, match='https://page.*sha256=DIGEST'):
        fetch('cotnet50')
    backbone = get_backbone('cotnet50')
    load_backbone(backbone, f'mmctx://cotnet50#sha256={no_digest}')
    with pytest.raises(CheckpointError, match='8 digits'):
        fetch('cotnet50', sha256='abc')
    with pytest.raises(CheckpointError, match='not of the form'):
        load_backbone(backbone, 'mmctx://cotnet50#md5=1')


def test_trust_on_first_use(no_digest, server, cache, caplog):
    """The digest of a file that fits is pinned; another file is refused."""
    backbone = get_backbone('cotnet50')
    logger = MMLogger.get_instance('trust', logger_name='trust')
    logger.addHandler(caplog.handler)
    load_backbone(backbone, 'mmctx://cotnet50')
    assert f'mmctx://cotnet50#sha256={no_digest}' in caplog.text
    assert (cache / 'cotnet50.pth.sha256').read_text() == no_digest
    load_backbone(backbone, 'mmctx://cotnet50')
    get_model('cotnet50', pretrained=True)
    assert server.requests == 1
    path = cache / 'cotnet50.pth'
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    for use in (
        lambda: load_backbone(backbone, 'mmctx://cotnet50'),
        lambda: get_model('cotnet50', pretrained=True),
        lambda: mmengine_load_checkpoint(backbone, 'mmctx://cotnet50'),
    ):
        with pytest.raises(CheckpointError, match='delete it and try again'):
            use()
    path.unlink()
    server.body = bytes(content)
    with pytest.raises(CheckpointError, match='not the expected one'):
        fetch('cotnet50')
    assert os.listdir(cache) == ['cotnet50.pth.sha256']


def test_a_file_that_does_not_fit_is_not_trusted(no_digest, server, cache):
    file = io.BytesIO()
    torch.save({'conv1.weight': torch.zeros(1)}, file)
    server.body = file.getvalue()
    with pytest.raises(CheckpointError, match='does not fit'):
        load_backbone(get_backbone('cotnet50'), 'mmctx://cotnet50')
    assert os.listdir(cache) == ['cotnet50.pth']


def test_without_a_digest_only_over_https(monkeypatch, cache):
    monkeypatch.setitem(
        RELEASED, 'cotnet50', Released('http://192.0.2.1/x', 'https://p', None)
    )
    with pytest.raises(CheckpointError, match='only https:// is trusted'):
        fetch('cotnet50')


def test_confirmation_page(no_digest, server, cache):
    server.body = b'  <!DOCTYPE html><html>Too many have fetched it</html>'
    with pytest.raises(
        CheckpointError, match=r'web page.*https://page/of.*put it at'
    ):
        fetch('cotnet50')
    assert os.listdir(cache) == []


def test_redirect(server, cache):
    server.redirect = '/elsewhere'
    assert fetch('cotnet50').read_bytes() == server.body


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


@pytest.fixture(scope='module')
def tiny_file(tmp_path_factory):
    path = tmp_path_factory.mktemp('tiny') / 'tiny.pth'
    torch.save(build_tiny('CoTNet').state_dict(), path)
    return path


def check_loads(address, path):
    backbone = build_tiny('CoTNet', init_cfg=pretrained(address))
    backbone.init_weights()
    state = torch.load(path, weights_only=True)
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, state[key])


def test_addresses_of_this_machine(tiny_file, tmp_path, monkeypatch):
    home = tmp_path / 'a home'
    home.mkdir()
    monkeypatch.setenv('HOME', str(home))
    copy = home / 'tiny.pth'
    copy.write_bytes(tiny_file.read_bytes())
    for address in (copy, '~/tiny.pth', copy.as_uri(), f'file://{copy}'):
        check_loads(address, copy)
    with pytest.raises(FileNotFoundError, match='no checkpoint file'):
        load_backbone(build_tiny('CoTNet'), 'file:///nowhere.pth')


def test_http_address(server, tiny_file, cache):
    server.body = tiny_file.read_bytes()
    server.redirect = None
    digest = hashlib.sha256(server.body).hexdigest()
    url = f'http://127.0.0.1:{server.server_port}'
    for name in (f'x-{digest[:8]}.pth', 'x-20240131.pth', 'x.pth?version=2'):
        check_loads(f'{url}/{name}', tiny_file)
        check_loads(f'{url}/{name}', tiny_file)
    assert server.requests == 3
    before = os.listdir(cache.parent / 'checkpoints')
    with pytest.raises(CheckpointError, match='not the expected one'):
        load_backbone(build_tiny('CoTNet'), f'{url}/x-{"0" * 8}.pth')
    server.body = server.body[:-9]
    server.cut = 100
    with pytest.raises(CheckpointError, match='ended after 100 of'):
        load_backbone(build_tiny('CoTNet'), f'{url}/y.pth')
    assert os.listdir(cache.parent / 'checkpoints') == before


@pytest.mark.parametrize(
    'scheme, source',
    [
        ('torchvision', 'get_torchvision_models'),
        ('open-mmlab', 'get_external_models'),
        ('openmmlab', 'get_external_models'),
        ('mmcls', 'get_mmcls_models'),
    ],
)
def test_names_that_mmengine_lists(
    scheme, source, server, tiny_file, monkeypatch
):
    server.body = tiny_file.read_bytes()
    url = f'http://127.0.0.1:{server.server_port}/tiny.pth'
    monkeypatch.setattr(
        f'mmengine.runner.checkpoint.{source}', lambda: dict(tiny=url)
    )
    check_loads(f'{scheme}://tiny', tiny_file)
    with pytest.raises(CheckpointError, match="no weights named 'tin'"):
        load_backbone(build_tiny('CoTNet'), f'{scheme}://tin')


def test_timm_names(server, tiny_file, monkeypatch):
    timm = pytest.importorskip('timm')
    server.body = tiny_file.read_bytes()
    url = f'http://127.0.0.1:{server.server_port}/tiny.pth'
    known = timm.models.PretrainedCfg(url=url)
    monkeypatch.setattr(
        timm, 'get_pretrained_cfg',
        lambda name, **options: known if name == 'tiny' else None,
    )  # fmt: skip
    check_loads('timm://tiny', tiny_file)
    with pytest.raises(CheckpointError, match="timm has no weights of 'tin'"):
        load_backbone(build_tiny('CoTNet'), 'timm://tin')


def test_backends_of_mmengine(tiny_file, monkeypatch):
    """Such as s3://; here one that reads from a folder."""

    class Backend(LocalBackend):
        def get(self, address):
            name = address.partition('://')[2]
            return (tiny_file.parent / name).read_bytes()

    register_backend('folder', Backend, force=True, prefixes='folder')
    check_loads('folder://tiny.pth', tiny_file)
    for address in ('folder://none.pth', 'unknown://tiny.pth'):
        with pytest.raises(CheckpointError, match='could not be fetched'):
            load_backbone(build_tiny('CoTNet'), address)


def test_zoo_takes_paths_and_addresses(released_file):
    backbone = get_backbone('cotnet50', pretrained=str(released_file))
    model = get_model('cotnet50', pretrained=released_file.as_uri())
    expected = Fixture('cotnet50').released
    assert torch.equal(backbone.stem[0].weight, expected['conv1.weight'])
    assert torch.equal(model.head.fc.bias, expected['fc.bias'])
    with pytest.raises(FileNotFoundError):
        get_backbone('cotnet50', pretrained='/nowhere.pth')
    with pytest.raises(CheckpointError, match="fit a classifier 'cotnet101'"):
        get_model('cotnet101', pretrained=str(released_file))


def test_classifier_of_other_classes_and_none(tmp_path):
    options = dict(TINY['CoTNet'])
    seven = get_model('cotnet50', num_classes=7, **options)
    path = str(tmp_path / 'a.pth')
    torch.save(seven.state_dict(), path)
    model = get_model('cotnet50', pretrained=path, num_classes=3, **options)
    key = 'stages.3.0.expand.0.weight'
    assert torch.equal(
        model.backbone.state_dict()[key], seven.backbone.state_dict()[key]
    )
    assert model.head.fc.out_features == 3
    torch.save(seven.backbone.state_dict(), path)
    with pytest.raises(CheckpointError, match=r'head\.fc.*get_backbone'):
        get_model('cotnet50', pretrained=path, num_classes=7, **options)
