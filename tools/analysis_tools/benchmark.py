#!/usr/bin/env python
"""Times models side by side: ours and stock ones, in one run.

Each round runs every model once, so that all of them meet the same state of
the machine; a ratio is the median over rounds of the ratio within a round.
Absolute times of a CPU say little beyond that machine: quote the ratios.
Peak memory is what one step of a fresh process adds to its resident set.
"""

import json
import multiprocessing
import os
import platform
import re
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import mmctx
from mmctx.engine import cli

DEFAULT_CASES = ['eval:8x224x224', 'train:8x224x224', 'eval:1x800x1344']
CLASSES = 1000


def parse_args(argv=None):
    parser = cli.Parser(
        description=__doc__.splitlines()[0],
        epilog='A model is a name of mmctx.list_models(), or one of '
        'torchvision:NAME, timm:NAME, mmpretrain:NAME, or plain:NAME, which '
        'is a model of ours computed without fused or sliced operators: '
        'attention as softmax(QK)V.',
    )
    parser.add_argument('models', nargs='*', default=['cotnet50'])
    parser.add_argument(
        '--peer',
        default='torchvision:resnet50',
        help='model that the others are compared with',
    )
    parser.add_argument(
        '--cases',
        nargs='+',
        default=DEFAULT_CASES,
        metavar='MODE:NxHxW',
        help='what to time; MODE is eval or train (forward and backward)',
    )
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--threads', type=int, default=None)
    parser.add_argument(
        '--channels-last', action='store_true', help='NHWC memory format'
    )
    parser.add_argument('--json', help='file for the figures')
    return parser.parse_args(argv)


def parse_case(text):
    """'eval:8x224x224' to ('eval', (8, 3, 224, 224))."""
    match = re.fullmatch(r'(eval|train):(\d+)x(\d+)x(\d+)', text)
    if not match:
        raise cli.UserError(
            f'case {text!r} is not of the form eval:NxHxW or train:NxHxW'
        )
    n, h, w = map(int, match.groups()[1:])
    return match[1], (n, 3, h, w)


class Plain(torch.nn.Module):
    """A model of ours on plain operators, the logits of attention in memory.

    Args:
        model (nn.Module): The model.
    """

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        # Where gradients are enabled, no layer takes its path for evaluation.
        with sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
            return self.model(x)


def _ours(name):
    if name not in mmctx.list_models():
        raise cli.UserError(
            f'{name!r} is no model of mmctx, nor LIBRARY:NAME with one of '
            f'{", ".join(LIBRARIES)}; mmctx has '
            f'{", ".join(mmctx.list_models())}'
        )
    return mmctx.get_model(name)


def _torchvision(name):
    import torchvision

    return torchvision.models.get_model(name)


def _timm(name):
    import timm

    return timm.create_model(name)


def _mmpretrain(name):
    import mmpretrain

    return mmpretrain.get_model(name)


LIBRARIES = {
    'torchvision': _torchvision,
    'timm': _timm,
    'mmpretrain': _mmpretrain,
    'plain': lambda name: Plain(_ours(name)),
}


def build(name, channels_last=False):
    """A classifier with random weights that maps images to logits."""
    library, _, model_name = name.rpartition(':')
    if library in LIBRARIES:
        model = LIBRARIES[library](model_name)
    else:
        model = _ours(name)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    return model


def make_input(shape, channels_last=False):
    x = torch.randn(*shape)
    return x.to(memory_format=torch.channels_last) if channels_last else x


def step(model, mode, x):
    """One evaluation, or one forward and backward pass."""
    if mode == 'eval':
        with torch.inference_mode():
            return model(x)
    model.zero_grad()
    target = torch.arange(len(x)) % CLASSES
    return F.cross_entropy(model(x), target).backward()


def time_rounds(models, mode, x, rounds):
    """Seconds of each model in each round, after one round of warm-up."""
    seconds = {name: [] for name in models}
    for model in models.values():
        model.train(mode == 'train')
        step(model, mode, x)
    for _ in range(rounds):
        for name, model in models.items():
            start = time.perf_counter()
            step(model, mode, x)
            seconds[name].append(time.perf_counter() - start)
    return seconds


def _resident(field):
    status = Path('/proc/self/status').read_text()
    return int(re.search(rf'{field}:\s+(\d+)', status)[1]) / 1024


def _measure_memory(name, mode, shape, channels_last, threads):
    torch.set_num_threads(threads)
    # Libraries load and start their threads with the first operators.
    small = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(8, CLASSES),
    )
    step(small, mode, make_input((2, 3, 32, 32), channels_last))
    model = build(name, channels_last).train(mode == 'train')
    x = make_input(shape, channels_last)
    before = _resident('VmRSS')
    Path('/proc/self/clear_refs').write_text('5')  # reset the peak
    step(model, mode, x)
    return _resident('VmHWM') - before


def peak_memory(name, mode, shape, channels_last):
    """MiB that one step adds to the resident set of a fresh process."""
    context = multiprocessing.get_context('spawn')
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(
            _measure_memory,
            name,
            mode,
            shape,
            channels_last,
            torch.get_num_threads(),
        ).result()


def run_case(names, text, args):
    """Figures of one case: a dict for each model."""
    mode, shape = parse_case(text)
    models = {name: build(name, args.channels_last) for name in names}
    x = make_input(shape, args.channels_last)
    seconds = time_rounds(models, mode, x, args.rounds)
    del models
    rows = []
    for name in names:
        ratios = [a / b for a, b in zip(seconds[args.peer], seconds[name])]
        memory = peak_memory(name, mode, shape, args.channels_last)
        rows.append(
            dict(
                case=text,
                model=name,
                seconds=statistics.median(seconds[name]),
                images_per_s_ratio=statistics.median(ratios),
                spread=[min(ratios), max(ratios)],
                peak_mib=memory,
            )
        )
    peer = next(row for row in rows if row['model'] == args.peer)
    for row in rows:
        row['peak_ratio'] = row['peak_mib'] / peer['peak_mib']
    return rows


def table(rows, peer):
    lines = [
        f'| case | model | images/s, of {peer} | range over rounds | '
        'peak extra memory, of the same |',
        '| --- | --- | --- | --- | --- |',
    ]
    for row in rows:
        low, high = row['spread']
        lines.append(
            f'| {row["case"]} | {row["model"]} | '
            f'{row["images_per_s_ratio"]:.2f} | {low:.2f} to {high:.2f} | '
            f'{row["peak_ratio"]:.2f} |'
        )
    return '\n'.join(lines)


def machine():
    cpu = platform.processor() or platform.machine()
    info = Path('/proc/cpuinfo')
    if info.is_file():
        cpu = re.search(r'model name\s*:\s*(.*)', info.read_text())[1]
    return (
        f'{cpu}, {torch.get_num_threads()} threads, torch '
        f'{torch.__version__}, float32, heap '
        + ('kept' if 'MALLOC_TRIM_THRESHOLD_' in os.environ else 'as usual')
    )


def main(argv=None):
    args = parse_args(argv)
    if args.rounds < 1:
        raise cli.UserError(f'--rounds must be 1 or more, got {args.rounds}')
    if args.threads:
        torch.set_num_threads(args.threads)
    names = [args.peer, *(n for n in args.models if n != args.peer)]
    rows = []
    print(machine())
    for case in args.cases:
        rows += run_case(names, case, args)
    print(table(rows, args.peer))
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=2) + '\n')


if __name__ == '__main__':
    sys.exit(cli.run(main))
