"""The command ``mmctx``: the tools, from anywhere."""

import sys
from collections.abc import Sequence
from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType
from typing import Optional

from mmctx.experiments import MIM, list_configs
from mmctx.suggestions import did_you_mean
from mmctx.version import __version__
from mmctx.zoo import list_models

from . import cli

#: Subcommands that run a tool, with the tool's own flags.
TOOLS = {
    'train': 'train.py',
    'test': 'test.py',
    'infer': 'infer.py',
    'export': 'export.py',
    'config': 'analysis_tools/print_config.py',
    'flops': 'analysis_tools/get_flops.py',
    'benchmark': 'analysis_tools/benchmark.py',
    'estimate': 'analysis_tools/gpu_estimate.py',
    'curves': 'analysis_tools/plot_curves.py',
    'visualize': 'visualize.py',
    'convert': 'model_converters/convert.py',
    'digit-scenes': 'dataset_converters/digit_scenes.py',
}
USAGE = """usage: mmctx COMMAND [ARGUMENT ...]

commands:
  list [PATTERN] [--task TASK] [--models]
                  names of configs, or of models
  env             versions of what mmctx works with
  train CONFIG    train; CONFIG is a name from `mmctx list`, or a file
  test CONFIG CHECKPOINT
                  evaluate
  infer CONFIG CHECKPOINT INPUT ...
                  predict, for pictures, folders, videos
  export CONFIG [CHECKPOINT]
                  write a file that runs without mmctx
  config CONFIG   print the whole config
  flops CONFIG    count parameters and multiply-adds
  benchmark NAME  time models beside others
  estimate NAME   what a GPU would spend on a model, without a GPU
  curves WORK_DIR ...
                  plot the logs of runs
  visualize CONFIG CHECKPOINT IMAGE
                  draw what the context layers do with a picture
  convert FILE    convert a checkpoint
  digit-scenes    draw the DigitScenes data

`mmctx COMMAND --help` shows the flags. On several GPUs:
  torchrun --nproc_per_node GPUS -m mmctx train CONFIG --launcher pytorch
"""


def list_names(argv: Sequence[str]) -> None:
    """Print the names of configs or models."""
    parser = cli.Parser(description='List configs or models.')
    parser.add_argument(
        'pattern', nargs='?', default='*', help='such as "*cotnet*"'
    )
    parser.add_argument('--task', help='such as detection')
    parser.add_argument(
        '--models', action='store_true', help='models of mmctx.get_model'
    )
    args = parser.parse_args(argv)
    names = list_models if args.models else list_configs
    try:
        print(*names(args.pattern, args.task), sep='\n')
    except ValueError as error:
        raise cli.UserError(str(error)) from error


def print_environment(argv: Sequence[str]) -> None:
    """Print what a report of a fault should say."""
    from mmengine.utils.dl_utils import collect_env

    cli.Parser(description='Show versions.').parse_args(argv)
    for name, value in {'mmctx': __version__, **collect_env()}.items():
        print(f'{name}: {value}')
    for name in ('mmcv', 'mmpretrain', 'mmdet', 'mmseg', 'mmaction'):
        try:
            version = __import__(name).__version__
        except ImportError as error:
            version = f'cannot be imported ({error})'
        print(f'{name}: {version}')


OWN = {'list': list_names, 'env': print_environment}


def _tool(name: str) -> ModuleType:
    path = MIM / 'tools' / TOOLS[name]
    spec = spec_from_file_location(path.stem, path)
    tool = module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run a subcommand and return its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    name, *arguments = argv or ['--help']
    if name in ('-h', '--help', '--version'):
        print(__version__ if name == '--version' else USAGE)
        return 0
    sys.argv = [f'mmctx {name}', *arguments]
    if name in OWN:
        return cli.run(OWN[name], arguments)
    if name not in TOOLS:
        hint = did_you_mean(name, [*TOOLS, *OWN])
        print(f'mmctx: error: no command {name!r}.{hint}', file=sys.stderr)
        return 2
    return cli.run(lambda argv: _tool(name).main())
