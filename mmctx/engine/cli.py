"""What the command-line tools share: flags, configs, errors in one line."""

import argparse
import difflib
import gc
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Callable, Optional

import mmengine
import torch
from mmengine.config import Config, ConfigDict, DictAction
from mmengine.device import get_device
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mmctx.checkpoints import CheckpointError, use_safe_reader
from mmctx.compatibility import LIBRARIES, how_to_install
from mmctx.experiments import config_path

from . import launchers
from .checks import ClassCheck, MisfitError, UserError, check_channels

SHOW_TRACEBACK = 'MMCTX_TRACEBACK'
#: What MMEngine and Python say without an OpenMMLab library.
NOT_INSTALLED = (
    rf"(?:No module named ')?({'|'.join(LIBRARIES)})(?:mentation)?"
    r"(?: is not installed|'|\.)"
)
#: Default hooks that MMEngine has by itself; None removes these alone.
MMENGINE_HOOKS = (
    'runtime_info',
    'timer',
    'sampler_seed',
    'logger',
    'param_scheduler',
    'checkpoint',
)
#: Why ``--amp`` is not for every detector.
NO_AMP = 'on a CPU it is bfloat16, which NMS and RoIAlign of mmcv lack'


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line and name the nearest flag."""

    def parse_args(self, args=None, namespace=None):
        try:
            return super().parse_args(args, namespace)
        except ValueError:
            # raised by DictAction
            self.error('--cfg-options takes KEY=VALUE pairs')

    def error(self, message):
        unknown = re.search(r'unrecognized arguments: (--[\w-]+)', message)
        if unknown:
            near = difflib.get_close_matches(
                unknown[1], self._option_string_actions, n=1
            )
            message += ''.join(f' (did you mean {flag}?)' for flag in near)
        self.exit(2, f'{self.prog}: error: {message}; see --help\n')


def config_parser(description: str) -> Parser:
    """A parser with the arguments of every tool that reads a config."""
    parser = Parser(description=description)
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='settings that replace those of the config, for example '
        'model.backbone.depth=101 or "key=[(a,b),(c,d)]" (quoted, without '
        'blanks)',
    )
    return parser


def run_parser(description: str) -> Parser:
    """A parser with the arguments that training and testing share."""
    parser = config_parser(description)
    parser.add_argument(
        '--work-dir',
        help='folder for logs, checkpoints and metrics; by default the '
        "config's work_dir, else work_dirs/<name of the config>",
    )
    parser.add_argument(
        '--amp',
        action='store_true',
        help='automatic mixed precision, on a CPU in bfloat16',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', *launchers.VARIABLES],
        default='none',
        help='job launcher',
    )
    # torch.distributed.launch passes one or the other spelling
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0)
    return parser


def existing_file(path: str, what: str) -> str:
    """The path, if there is a file; a UserError with a near name if not."""
    if Path(path).is_file():
        return path
    folder = Path(path).parent
    names = os.listdir(folder) if folder.is_dir() else []
    near = difflib.get_close_matches(Path(path).name, names, n=1)
    hint = f' (did you mean {folder / near[0]}?)' if near else ''
    raise UserError(f'{what} {path} does not exist{hint}')


def existing_checkpoint(path: str) -> str:
    """The path or URL of a checkpoint; a missing file is a UserError."""
    return path if '://' in path else existing_file(path, 'checkpoint')


def _config_file(path: str) -> str:
    """A file by its path, or one of ours by its name."""
    if Path(path).is_file():
        return path
    try:
        return config_path(path)
    except ValueError as error:
        if '/' in path or path.endswith('.py'):
            return existing_file(path, 'config')
        raise UserError(str(error)) from error


def load_config(path: str, options: Optional[dict] = None) -> Config:
    """Reads a config and applies the settings from the command line.

    The path can be the name of a config of ours.

    Raises:
        UserError: There is no such file, it cannot be read, or it is written
            for a package that is not installed.
    """
    file = _config_file(path)
    try:
        cfg = Config.fromfile(file)
        _forget_scope(cfg._cfg_dict)
    except Exception as error:
        raise UserError(
            f'cannot read config {path}: {describe(error)}'
        ) from error
    try:
        cfg.merge_from_dict(options or {})
    except Exception as error:
        raise UserError(f'--cfg-options: {describe(error)}') from error
    scope = cfg.get('default_scope') or 'mmengine'
    if importlib.util.find_spec(scope) is None:
        raise UserError(
            f'config {path} is written for {scope}: {how_to_install(scope)}'
        )
    return cfg


def _forget_scope(cfg: object) -> None:
    """Build what comes from ``mmctx::...`` in the config's default scope.

    MMEngine takes the name of a package for that of its registries; those of
    mmctx's classes are the root ones.
    """
    if isinstance(cfg, dict):
        if cfg.get('_scope_') == 'mmctx':
            cfg.pop('_scope_')
        cfg = list(cfg.values())
    for value in cfg if isinstance(cfg, (list, tuple)) else ():
        _forget_scope(value)


def require(cfg: Config, path: str, fields: Sequence[str]) -> None:
    """Raises a UserError if the config lacks one of the fields."""
    missing = [field for field in fields if cfg.get(field) is None]
    if missing:
        raise UserError(
            f'config {path} has no {", ".join(missing)}: it is not a complete '
            'config of mmpretrain, mmdet or mmseg (MMEngine generation)'
        )


def prepare(cfg: Config, args: argparse.Namespace) -> None:
    """Applies the arguments of :func:`run_parser` but ``--amp``."""
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg.launcher = args.launcher
    cfg.work_dir = (
        args.work_dir
        or cfg.get('work_dir')
        or os.path.join('work_dirs', Path(args.config).stem)
    )
    _check_work_dir(Path(cfg.work_dir))
    if args.launcher != 'none':
        launchers.join(cfg, args.launcher)
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        if cfg.get(name) is not None:
            _complete_dataloader(cfg[name], cfg.get('default_scope'))
    hooks = cfg.get('default_hooks') or {}
    for name in [name for name, hook in hooks.items() if hook is None]:
        if name not in MMENGINE_HOOKS:
            del hooks[name]


def _check_work_dir(folder: Path) -> None:
    parent = folder.absolute()
    while not parent.exists():
        parent = parent.parent
    if not (parent.is_dir() and os.access(parent, os.W_OK)):
        raise UserError(
            f'work dir {folder} cannot be written, because {parent} cannot: '
            'choose another one by --work-dir'
        )


def _complete_dataloader(loader: ConfigDict, scope: Optional[str]) -> None:
    if scope == 'mmpretrain':
        # what mmpretrain's own tools set
        loader.setdefault('pin_memory', torch.cuda.is_available())
        loader.setdefault('persistent_workers', True)
        loader.setdefault('collate_fn', dict(type='default_collate'))
    if loader.get('num_workers', 0) == 0:
        # PyTorch refuses these two without workers
        loader.pop('persistent_workers', None)
        loader.pop('prefetch_factor', None)


def has_nms(model_cfg: ConfigDict, phase: str) -> bool:
    """Whether a detector suppresses boxes by its 'train_cfg' or 'test_cfg'."""
    return "'nms'" in repr(model_cfg.get(phase))


def check_amp(model_cfg: ConfigDict, phase: str) -> None:
    """Raises a UserError where mixed precision cannot work."""
    if get_device() == 'cpu' and has_nms(model_cfg, phase):
        raise UserError(f'no --amp for this detector: {NO_AMP}')


def build_runner(cfg: Config, path: str) -> Runner:
    """The runner that the config at ``path`` asks for.

    Whatever it loads goes through the safe reader of mmctx.

    Raises:
        UserError: A constructor refuses what the config gives it.
    """
    use_safe_reader()
    try:
        if 'runner_type' in cfg:
            runner = RUNNERS.build(cfg)
        else:
            runner = Runner.from_cfg(cfg)
        check_channels(cfg.model, runner.model)
    except (
        AssertionError,
        ImportError,
        KeyError,
        OSError,
        TypeError,
        ValueError,
    ) as error:
        raise UserError(
            f'cannot build what {path} describes: {describe(error)}'
        ) from error
    runner.register_hook(ClassCheck())
    runner.load_or_resume = partial(_load_or_resume, runner.load_or_resume)
    return runner


def _load_or_resume(load: Callable) -> None:
    """MMEngine believes that every file holds what it would have written."""
    try:
        load()
    except (CheckpointError, FileNotFoundError):
        raise
    except Exception as error:
        raise UserError(
            f'cannot use the checkpoint: {describe(error)}'
        ) from error


def describe(error: BaseException) -> str:
    """An error in one line, with its place if that says more than it does."""
    if isinstance(error, SyntaxError) and error.lineno:
        return f'line {error.lineno}: {error.msg}'
    if isinstance(error, ImportError) and _missing_library(error):
        return how_to_install(_missing_library(error))
    if isinstance(error, KeyError) and error.args:
        text = str(error.args[0])
        return text if ' ' in text else f'there is no {text!r}'
    if isinstance(error, (CheckpointError, MisfitError, UserError)):
        return ' '.join(str(error).split())
    lines = str(error).strip().splitlines() or [_origin(error)]
    # a worker process sends its whole traceback
    line = lines[-1 if lines[0].startswith('Caught ') else 0]
    if 'unexpected keyword argument' in line and '_delete_' not in line:
        line += (
            '. If it comes from a _base_, write _delete_=True into the dict '
            'that names the type: dict(_delete_=True, type=..., ...)'
        )
    return line


def _missing_library(error: Optional[BaseException]) -> str:
    """The OpenMMLab library whose absence is behind an error, or nothing."""
    while isinstance(error, ImportError):
        match = re.match(NOT_INSTALLED, str(error))
        if match:
            return match[1]
        error = error.__cause__ or error.__context__
    return ''


def _origin(error: BaseException) -> str:
    """Type and place of an error that has no message of its own."""
    *_, frame = _frames(error)
    place = f'{frame.filename}:{frame.lineno}: {frame.line}'
    return f'{type(error).__name__} at {place}'


def _frames(error: BaseException) -> traceback.StackSummary:
    return traceback.extract_tb(error.__traceback__)


def is_user_error(error: Exception) -> bool:
    """Whether an error comes from a flag, a path or a config.

    Beside a UserError that is a missing file, a checkpoint that cannot be
    used, parts that do not fit together, and a type or an argument that does
    not exist: some objects are built only when training starts.
    """
    known = (UserError, FileNotFoundError, CheckpointError, MisfitError)
    if isinstance(error, TypeError):
        # A constructor's argument: the error is raised where it is called.
        place = Path(_frames(error)[-1].filename)
        return Path(mmengine.__file__).parent in place.parents and bool(
            re.search(r'__init__\(\) .*argument', str(error))
        )
    return isinstance(error, known) or (
        isinstance(error, KeyError)
        and re.search(r'is not in the \S+ registry', str(error)) is not None
    )


def run(main: Callable, argv: Optional[Sequence[str]] = None) -> int:
    """Runs a tool; a user's error becomes one line on stderr and code 2.

    With the environment variable ``MMCTX_TRACEBACK`` set, the traceback of
    such an error is shown too.
    """
    try:
        main(argv)
    except SystemExit:
        _leave_process_group()
        raise
    except Exception as error:
        if os.environ.get(SHOW_TRACEBACK) or not is_user_error(error):
            raise
        prog = Path(sys.argv[0]).name
        print(f'{prog}: error: {describe(error)}', file=sys.stderr)
        return 2
    _leave_process_group()
    return 0


def _leave_process_group() -> None:
    """Stop its threads, which can abort a process that exits before them."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        gc.collect()  # the model's wrapper holds the group, too
        torch.distributed.destroy_process_group()
