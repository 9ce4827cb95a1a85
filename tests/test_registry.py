"""Names in configs, from every host's scope."""

import importlib
import subprocess
import sys

import pytest
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope, Registry

import mmctx
from mmctx.registry import register
from tests.helpers.backbones import TINY, class_of

HOSTS = ('mmpretrain', 'mmdet', 'mmseg')


#: SixthNet is registered by the tests, outside of the scope 'mmctx'.
NAMES = sorted(set(TINY) - {'SixthNet'})


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('prefix', ['', 'mmctx.'])
@pytest.mark.parametrize('host', HOSTS)
def test_names_resolve_from_every_scope(host, prefix, name):
    registry = pytest.importorskip(f'{host}.registry').MODELS
    type_name = class_of(name)
    cfg = dict(TINY[name], type=prefix + type_name)
    with DefaultScope.overwrite_default_scope(host):
        assert type(registry.build(cfg)).__name__ == type_name
        assert type(MODELS.build(cfg)).__name__ == type_name


def test_prefixed_name_needs_no_import():
    code = (
        'from mmengine.registry import MODELS\n'
        "print(type(MODELS.build(dict(type='mmctx.CoTNet', depth=14))))"
    )
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True
    )
    assert 'CoTNet' in done.stdout, done.stderr


BARE_IMPORT = """
import sys

for name in {hidden!r}:
    sys.modules[name] = None  # importing it fails
import mmctx, torch
from mmengine.registry import DefaultScope
assert DefaultScope.get_current_instance() is None
model = mmctx.get_backbone('cotnet50', depth=14)
assert len(model(torch.rand(2, 3, 64, 64))) == 4
try:
    mmctx.get_model('cotnet50')
except ImportError as error:
    assert 'get_backbone' in str(error)
else:
    raise AssertionError('no mmpretrain, yet a classifier')
print('fine')
"""


def test_import_needs_no_host_no_ops_no_triton():
    hidden = [*HOSTS, 'mmcv._ext', 'triton', 'timm', 'sklearn']
    done = subprocess.run(
        [sys.executable, '-c', BARE_IMPORT.format(hidden=hidden)],
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip().endswith('fine'), done.stderr


@pytest.mark.parametrize(
    'package, name',
    [
        ('heads', 'CoaTClsHead'),
        ('heads', 'ContextualClsHead'),
        ('heads', 'SingleMaskCascadeRoIHead'),
        ('backbones', 'PAMVisionTransformer'),
        ('detectors', 'SMCADETR'),
        ('selfsup', 'DINOSelfDistillation'),
    ],
)
def test_lazy_classes_can_be_imported(package, name):
    """As configs of MMEngine's new style do."""
    module = importlib.import_module(f'mmctx.models.{package}')
    assert getattr(module, name).__name__ == name
    assert getattr(mmctx.models, name) is getattr(module, name)
    with pytest.raises(AttributeError, match=f"'{module.__name__}' has no"):
        module.NoSuchClass  # noqa: B018


def test_a_config_of_the_new_style(tmp_path):
    path = tmp_path / 'config.py'
    path.write_text(
        'from mmctx.models.heads import CoaTClsHead\n'
        'head = dict(type=CoaTClsHead, num_classes=3, in_channels=8)\n'
    )
    head = MODELS.build(Config.fromfile(path).head)
    assert type(head).__name__ == 'CoaTClsHead'


def test_taken_name_is_an_error():
    registry = Registry('somewhere')

    @registry.register_module(name='CoTNet')
    class Other:
        pass

    with pytest.raises(RuntimeError, match=r"'CoTNet'.*Other already has"):
        register(registry, 'CoTNet')(object)
    assert registry.get('CoTNet') is Other


def test_clear_message_for_old_or_missing_packages(monkeypatch):
    from mmctx import compatibility

    monkeypatch.setattr(
        compatibility, 'REQUIRED', (('nowhere', '1.0', 'onedl-nowhere'),)
    )
    with pytest.raises(ImportError, match='Install onedl-nowhere'):
        compatibility.check_dependencies()
    monkeypatch.setattr(
        compatibility, 'REQUIRED', (('torch', '99.0', 'torch'),)
    )
    with pytest.raises(ImportError, match=r'torch >= 99.0, found .*Upgrade'):
        compatibility.check_dependencies()


RELOAD = """
import importlib, sys
import mmctx, torch
from mmengine.registry import MODELS

importlib.reload(mmctx)
for name in [name for name in sys.modules if name.startswith('mmctx')]:
    importlib.reload(sys.modules[name])
assert MODELS.get('CoTNet') is mmctx.models.backbones.cotnet.CoTNet
for name in [name for name in sys.modules if name.startswith('mmctx')]:
    del sys.modules[name]
import mmctx

assert MODELS.get('CoTNet') is mmctx.models.CoTNet
assert len(mmctx.get_backbone('cotnet50', depth=14)(torch.rand(2, 3, 32, 32)))
print('fine')
"""


def test_reloading_registers_what_is_new():
    done = subprocess.run(
        [sys.executable, '-c', RELOAD], capture_output=True, text=True
    )
    assert done.stdout.strip().endswith('fine'), done.stderr
