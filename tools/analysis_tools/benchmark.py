#!/usr/bin/env python
"""Times mmctx and stock models and operators side by side, in one run.

Each round runs every model once, so that all see the same state of the
machine; a ratio is the median over rounds of the ratio within a round.
Absolute times of a CPU say little beyond that machine: quote the ratios.

Peak memory is what one step adds: on a GPU to PyTorch's allocations, on a CPU
to the resident set of a new process. It is not measured for operators on a
CPU, nor for compiled models there, whose compiler would count.
"""

import json
import os
import platform
import re
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from mmctx.engine import cli
from tools.analysis_tools._benchmark_models import (
    AMP_DTYPES,
    gpu_peak,
    peak_memory,
    place,
    prepare,
    step,
)
from tools.analysis_tools._benchmark_ops import (
    OPERATORS,
    layer_shapes,
    make_step,
    traffic,
)
from tools.analysis_tools._benchmark_report import (
    model_table,
    operator_table,
    plot,
    runtime_table,
)
from tools.analysis_tools._benchmark_runtimes import (
    RUNTIMES,
    run_runtimes,
    versions,
)
from tools.analysis_tools._benchmark_timing import (
    Stopwatch,
    first_seconds,
    median_and_ratios,
    time_rounds,
)

# One model of each family, and the operators.
DEFAULT_NAMES = [
    'cotnet50',
    'contnet_m',
    'ctx_convnext_tiny',
    'container_light',
    'coat_lite_small',
    *OPERATORS,
]
DEFAULT_CASES = ['eval:2x224x224', 'train:2x160x160']
DEPLOYED_CASES = ['eval:1x224x224']


def parse_args(argv=None):
    parser = cli.Parser(
        description=__doc__.splitlines()[0]
        + ' The defaults suit a CPU: small batches, few rounds.',
        epilog='NAME is one of mmctx.list_models(), or torchvision:NAME, '
        'timm:NAME, mmpretrain:NAME, or plain:NAME, which is a model of mmctx '
        'computed without fused or sliced operators: attention as '
        f'softmax(QK)V. {" and ".join(OPERATORS)} are timed on the feature '
        'maps of all four stages of their networks, each against a peer of '
        'its own: aggregation by unfold, deformable convolution by '
        'torchvision with the batch folded into the channels.',
    )
    parser.add_argument(
        'names', nargs='*', metavar='NAME',
        help='models and operators; default: a model of each family and the '
        'operators',
    )  # fmt: skip
    parser.add_argument(
        '--peer',
        default='torchvision:resnet50',
        help='model that the others are compared with',
    )
    parser.add_argument(
        '--cases',
        nargs='+',
        metavar='MODE:NxHxW',
        help='what to time; MODE is eval or train (forward and backward), '
        'NxHxW the images; several cases show how time scales with batch and '
        f'resolution; default: {" ".join(DEFAULT_CASES)}, with --runtime '
        f'{" ".join(DEPLOYED_CASES)}',
    )
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--threads', type=int, default=None)
    parser.add_argument(
        '--device',
        choices=['cpu', 'cuda'],
        help='default: the GPU if there is one, with --runtime the CPU',
    )
    parser.add_argument(
        '--amp',
        choices=AMP_DTYPES,
        help='automatic mixed precision; operators get inputs of this type',
    )
    parser.add_argument(
        '--compile',
        action='store_true',
        help='compile everything, peers too; the first call says how long '
        'that takes',
    )
    parser.add_argument(
        '--channels-last', action='store_true', help='NHWC memory format'
    )
    parser.add_argument(
        '--runtime',
        nargs='+',
        choices=RUNTIMES,
        help='what a deployed model costs on a CPU: every model in these '
        'runtimes, beside the peer in the same; int8 is calibrated static '
        'quantisation by onnxruntime',
    )
    parser.add_argument(
        '--exports',
        metavar='DIR',
        help='where files for --runtime and compiled code stay for the next '
        'run; by default a temporary folder',
    )
    parser.add_argument(
        '--backbones',
        action='store_true',
        help='with --runtime: models of mmctx, torchvision and timm without '
        'their heads',
    )
    parser.add_argument('--json', metavar='FILE', help='where figures go')
    parser.add_argument(
        '--plot', metavar='FILE', help='where a picture of the ratios goes'
    )
    args = parser.parse_args(argv)
    on_gpu = torch.cuda.is_available() and not args.runtime
    args.device = args.device or ('cuda' if on_gpu else 'cpu')
    args.cases = args.cases or (
        DEPLOYED_CASES if args.runtime else DEFAULT_CASES
    )
    args.names = args.names or [
        name
        for name in DEFAULT_NAMES
        if not (args.runtime and name in OPERATORS)
    ]
    check(args)
    return args


def check(args):
    if args.rounds < 1:
        raise cli.UserError(f'--rounds must be 1 or more, got {args.rounds}')
    if args.device == 'cuda' and not torch.cuda.is_available():
        raise cli.UserError(
            'PyTorch sees no GPU here: leave --device cuda away'
        )
    unknown = [n for n in args.names if n.startswith('op:')]
    unknown = [n for n in unknown if n not in OPERATORS]
    if unknown:
        raise cli.UserError(
            f'{unknown[0]!r} is no operator; there are {", ".join(OPERATORS)}'
        )
    for case in args.cases:
        parse_case(case)
    if args.runtime:
        check_runtimes(args)
    elif args.exports or args.backbones:
        raise cli.UserError('--exports and --backbones are for --runtime')


def check_runtimes(args):
    unfit = [
        flag
        for flag, value in {
            '--amp': args.amp,
            '--compile': args.compile,
            '--channels-last': args.channels_last,
            '--device cuda': args.device == 'cuda',
        }.items()
        if value
    ]
    if unfit:
        raise cli.UserError(
            f'--runtime times float32 and int8 on a CPU: leave '
            f'{" and ".join(unfit)} away'
        )
    for name in args.names:
        if name in OPERATORS:
            raise cli.UserError(f'--runtime takes models, not {name}')
    for case in args.cases:
        mode, (n, *_) = parse_case(case)
        if mode != 'eval' or n != 1:
            raise cli.UserError(
                f'--runtime times single images, eval:1xHxW; got {case}'
            )


def parse_case(text):
    """'eval:8x224x224' to ('eval', (8, 3, 224, 224))."""
    match = re.fullmatch(r'(eval|train):(\d+)x(\d+)x(\d+)', text)
    if not match:
        raise cli.UserError(
            f'case {text!r} is not of the form eval:NxHxW or train:NxHxW'
        )
    n, h, w = map(int, match.groups()[1:])
    return match[1], (n, 3, h, w)


def compare(steps, peer, args, stopwatch):
    """Times of some steps, and ratios to one of them, by name."""
    first = first_seconds(stopwatch, steps)
    seconds = time_rounds(stopwatch, steps, args.rounds)
    figures = {}
    for name, times in seconds.items():
        median, speed, spread = median_and_ratios(times, seconds[peer])
        figures[name] = dict(
            seconds=median,
            speed_ratio=speed,
            spread=spread,
            first_seconds=first.get(name),
        )
    return figures


def ratio(mib, peer_mib):
    return None if mib is None or not peer_mib else mib / peer_mib


def run_models(names, case, args, stopwatch):
    """Figures of all models in one case: a dict for each."""
    mode, shape = parse_case(case)
    torch._dynamo.reset()
    models = {name: prepare(name, mode, args) for name in names}
    x = place(torch.randn(shape), args)
    steps = {
        name: partial(step, model, mode, x, args.amp)
        for name, model in models.items()
    }
    figures = compare(steps, args.peer, args, stopwatch)
    peaks = {
        name: peak_memory(steps[name], name, mode, shape, args)
        for name in names
    }
    return [
        dict(
            case=case,
            model=name,
            peer=args.peer,
            images_per_s=len(x) / figures[name]['seconds'],
            peak_mib=peaks[name],
            peak_ratio=ratio(peaks[name], peaks[args.peer]),
            **figures[name],
        )
        for name in names
    ]


def operator_steps(name, mode, inputs, args):
    """Steps of an operator and its peer, by name."""
    operator = OPERATORS[name]
    functions = {name: operator.ours, operator.peer_name: operator.peer}
    if args.compile:
        torch._dynamo.reset()
        functions = {
            key: torch.compile(function, dynamic=False)
            for key, function in functions.items()
        }
    return {
        key: make_step(function, mode, inputs)
        for key, function in functions.items()
    }


def run_operator(name, case, shape, args, stopwatch):
    """Figures of one operator on one feature map."""
    operator, mode = OPERATORS[name], parse_case(case)[0]
    dtype = AMP_DTYPES.get(args.amp)
    inputs = [place(x, args, dtype) for x in operator.make_inputs(shape)]
    steps = operator_steps(name, mode, inputs, args)
    copy_step = dict(copy=stopwatch.copy_step())
    figures = compare(
        {**steps, **copy_step}, operator.peer_name, args, stopwatch
    )
    peaks = [None, None]
    if args.device == 'cuda':
        peaks = [gpu_peak(run) for run in steps.values()]
    rate = traffic(mode, inputs) / figures[name]['seconds'] / 1e9
    copy = stopwatch.copy_traffic / figures['copy']['seconds'] / 1e9
    return dict(
        case=case,
        operator=name,
        map='x'.join(map(str, shape)),
        peer=operator.peer_name,
        gb_per_s=rate,
        copy_gb_per_s=copy,
        copy_share=rate / copy,
        peak_mib=peaks[0],
        peak_ratio=ratio(*peaks),
        **figures[name],
    )


def run_operators(names, case, args, stopwatch):
    return [
        run_operator(name, case, shape, args, stopwatch)
        for name in names
        for shape in layer_shapes(OPERATORS[name], parse_case(case)[1])
    ]


def processor():
    cpu = platform.processor() or platform.machine()
    info = Path('/proc/cpuinfo')
    if info.is_file():
        match = re.search(r'model name\s*:\s*(.*)', info.read_text())
        cpu = match[1] if match else cpu
    trimmed = 'MALLOC_TRIM_THRESHOLD_' not in os.environ
    trimming = 'enabled' if trimmed else 'disabled'
    threads = torch.get_num_threads()
    return f'{cpu}, {threads} threads, allocator trimming {trimming}'


def setting(args):
    """Where and how everything runs, in a line."""
    gpu = args.device == 'cuda'
    if args.runtime:
        return ', '.join([processor(), *versions()])
    return ', '.join(
        [
            torch.cuda.get_device_name() if gpu else processor(),
            f'torch {torch.__version__}',
            f'AMP {args.amp}' if args.amp else 'float32',
            'compiled' if args.compile else 'eager',
            'channels_last' if args.channels_last else 'contiguous',
        ]
    )


def main(argv=None):
    args = parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    operators = [n for n in dict.fromkeys(args.names) if n in OPERATORS]
    models = [n for n in args.names if n not in OPERATORS]
    names = list(dict.fromkeys([args.peer, *models])) if models else []
    if args.compile or args.runtime:
        # Models share code; past a limit PyTorch would run them eagerly.
        torch._dynamo.config.cache_size_limit = 64
    stopwatch = Stopwatch(torch.device(args.device))
    print(setting(args))
    figures = dict(setting=setting(args), models=[], operators=[], runtimes=[])
    for case in args.cases:
        if args.runtime:
            figures['runtimes'] += run_runtimes(
                names, case, parse_case(case)[1][2:], args, stopwatch
            )
        elif models:
            figures['models'] += run_models(names, case, args, stopwatch)
        figures['operators'] += run_operators(operators, case, args, stopwatch)
    if args.runtime:
        print(runtime_table(figures['runtimes'], args.peer))
    elif models:
        print(model_table(figures['models'], args.peer))
    if operators:
        print(operator_table(figures['operators']))
    if args.json:
        Path(args.json).write_text(json.dumps(figures, indent=2) + '\n')
    if args.plot:
        rows = [row for part in ('models', 'operators', 'runtimes')
                for row in figures[part] if row['speed_ratio']]  # fmt: skip
        plot(rows, args.plot, figures['setting'])


if __name__ == '__main__':
    sys.exit(cli.run(main))
