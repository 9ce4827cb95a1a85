"""What the tools say about errors."""

import re
import subprocess
import sys
from unittest.mock import Mock

from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner

from mmctx.compatibility import LIBRARIES
from mmctx.engine import cli
from mmctx.engine.cli import describe


def error_of(call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except Exception as error:
        return error


def test_arguments_left_from_a_backbone_of_ours():
    init_default_scope('mmdet')
    error = error_of(MODELS.build, dict(type='ResNet', depth=50, arch='ti'))
    line = describe(error)
    assert "unexpected keyword argument 'arch'" in line
    assert line.endswith('dict(_delete_=True, type=..., ...)')


def test_one_hint_is_enough():
    error = error_of(MODELS.build, dict(type='CoTNet', style='pytorch'))
    assert describe(error).count('_delete_') == 1


def test_assertions_without_a_message():
    def check():
        raise AssertionError

    line, place = describe(error_of(check)).split(' at ')
    assert line == 'AssertionError'
    assert re.fullmatch(rf'{__file__}:\d+: raise AssertionError', place)


def test_none_removes_any_default_hook(tmp_path):
    hooks = dict(timer=None, curves=None, gallery=dict(type='Gallery'))
    cfg = Config(dict(default_hooks=hooks))
    args = cli.run_parser('').parse_args(['a.py', '--work-dir', str(tmp_path)])
    cli.prepare(cfg, args)
    assert cfg.default_hooks == dict(timer=None, gallery=hooks['gallery'])


def test_hooks_that_mmengine_removes_itself():
    runner = Mock()
    Runner.register_default_hooks(runner, dict.fromkeys(cli.MMENGINE_HOOKS))
    runner.register_hook.assert_not_called()


MISSING = """
import sys
from importlib.machinery import PathFinder

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.split('.')[0] not in ('mmdet', 'mmseg', 'mmpretrain'):
            return super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
from mmctx.engine import cli
for path in sys.argv[1:]:
    try:
        cli.load_config(path)
    except cli.UserError as error:
        print(error)
"""


def test_missing_libraries(tmp_path):
    """Both distributions are named: pip would mix them."""
    paths = []
    for library in ('mmpretrain', 'mmdet', 'mmseg'):
        for text in (
            f"_base_ = '{library}::_base_/default_runtime.py'",
            f"default_scope = '{library}'",
            f"custom_imports = dict(imports=['{library}.engine'])",
            f'import {library}.engine',
        ):
            paths.append(tmp_path / f'{len(paths)}.py')
            paths[-1].write_text(text + '\n')
    done = subprocess.run(
        [sys.executable, '-c', MISSING, *map(str, paths)],
        capture_output=True,
        text=True,
    )
    lines = [line.split(': ', 1)[1] for line in done.stdout.splitlines()]
    assert lines == [
        f'{name} is not installed. Install {distributions}: from the line '
        'that your mmengine is from, never both.'
        for name, distributions in LIBRARIES.items()
        for _ in range(4)
    ], done.stderr
