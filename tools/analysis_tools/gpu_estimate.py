#!/usr/bin/env python
"""Estimates what a GPU would spend on a network, without a GPU.

The network runs on tensors without data. Every operator reads its inputs and
writes its outputs once, at the bandwidth given, or computes at the peak rate
given, whichever takes longer; the kernels of mmctx are compiled for the target
and take no less than issuing their instructions does. The sum over operators
is a lower bound for running them one by one, not a time. Attention is taken
as a fused kernel, and stochastic depth is off.
"""

import collections
import functools
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mmctx.engine import cli
from mmctx.ops import triton_support
from tools.analysis_tools._benchmark_models import AMP_DTYPES, build
from tools.analysis_tools._gpu_kernels import Variants
from tools.analysis_tools._gpu_trace import HALF, Network
from tools.analysis_tools.get_flops import build_model

RESNET = 'torchvision:resnet50'
CONVNEXT = 'mmpretrain:convnext-tiny_32xb128_in1k'
SWIN = 'torchvision:swin_t'
#: Stock peers, by the first letters of a network's name.
PEERS = {'ctx_convnext': CONVNEXT, 'coat': SWIN, '': RESNET}
#: What --table shows.
TABLE = [
    'cotnet50',
    'se_cotnetd_50',
    'contnet_m',
    'ctx_convnext_tiny',
    'ctx_resnet50',
    'container_light',
    'container',
    'coat_lite_small',
    'coat_small',
]
#: Warp instructions a second that an H100 issues: 132 processors of 4 at
#: 1.755 GHz.
ISSUE_RATE = 132 * 4 * 1.755e9
#: Images of COCO, height and width, and the short sides that they get.
IMAGES = [(480, 640), (427, 640), (640, 480), (375, 500), (640, 427)]
SHORT_SIDES = range(480, 801, 32)
LONGEST = 1333


def parse_args(argv=None):
    parser = cli.Parser(
        description=__doc__.splitlines()[0],
        epilog='NAME is one of mmctx.list_models(), LIBRARY:NAME as for '
        'benchmark.py, or a config file, whose backbone is taken.',
    )
    add = parser.add_argument
    add('names', nargs='*', metavar='NAME', help='networks')
    add(
        '--table', action='store_true',
        help='a row for each of a list of networks, evaluation and training '
        'step; without NAME those of docs/benchmarks.md',
    )  # fmt: skip
    add(
        '--peer',
        help='network to compare with; default: a stock one of that size',
    )
    add('--batch', type=int, default=128, help='default: 128')
    add(
        '--shape', type=int, nargs='+', metavar='SIZE', default=[224],
        help='height and width, or one number for both; default: 224',
    )  # fmt: skip
    add('--train', action='store_true', help='forward and backward pass')
    add(
        '--amp', choices=AMP_DTYPES, nargs='?', const='bf16',
        help='automatic mixed precision; bf16 if not said',
    )  # fmt: skip
    add('--channels-last', action='store_true', help='NHWC memory format')
    add('--target', default='sm_90', help='sm_90, sm_80, gfx942, ...')
    add('--bandwidth', type=float, default=3.0, help='TB/s; default: 3.0')
    add(
        '--tflops', type=float, default=800,
        help='peak rate in half precision, twice that in float32; '
        'default: 800',
    )  # fmt: skip
    add('--top', type=int, default=12, help='costs to print; default: 12')
    add(
        '--no-compile', action='store_true',
        help='do not compile the kernels: their bytes alone count',
    )  # fmt: skip
    add(
        '--vary-sizes', type=int, metavar='N', nargs='?', const=60,
        help='count the variants of kernels over N iterations of multi-scale '
        'training, two images each; default: 60',
    )  # fmt: skip
    add('--no-padding', action='store_true', help='to multiples of 32, then')
    args = parser.parse_args(argv)
    sizes = [args.batch, args.bandwidth, args.tflops, *args.shape]
    if min(sizes) <= 0 or len(args.shape) > 2:
        parser.error(
            '--batch, --bandwidth, --tflops and the one or two numbers of '
            '--shape must be positive'
        )
    if not args.names and not args.table:
        parser.error('name a network, or ask for the --table')
    return args


def load(name, args):
    """A :class:`Network` by name, or the backbone of a config as one."""
    if name.endswith('.py'):
        cfg = cli.load_config(name)
        cli.require(cfg, name, ['model'])
        model = build_model(cfg).backbone.requires_grad_(True)
    else:
        model = build(name)
    return Network(model, AMP_DTYPES.get(args.amp), args.channels_last)


class Estimate:
    """Costs of one network, and the time they take at least.

    Args:
        name (str): Of the network.
        train (bool): Whether the backward pass is included.
        args (Namespace): The arguments of the command.
    """

    def __init__(self, name, train, args):
        self.name, self.args = name, args
        self.variants = Variants(args.target)
        shape = (args.batch, 3, args.shape[0], args.shape[-1])
        self.costs = load(name, args).costs(shape, train, self.variants)

    def seconds(self, cost):
        """At least, for reading and writing, computing, and issuing."""
        half = any(x.dtype in HALF for x in cost.inputs)
        peak = self.args.tflops * 1e12 / (1 if half else 2)
        issued = 0
        if cost.variant and not self.args.no_compile:
            issued = cost.programs * cost.variant.issued
        return max(
            cost.bytes / (self.args.bandwidth * 1e12),
            cost.flops / peak,
            issued / ISSUE_RATE,
        )

    @functools.cached_property
    def bound(self):
        return sum(map(self.seconds, self.costs))

    def total(self, field):
        return sum(getattr(cost, field) for cost in self.costs)

    def largest(self):
        """(name, seconds, bytes, launches), summed up by name."""
        sums = collections.defaultdict(lambda: [0, 0, 0])
        for cost in self.costs:
            entry = self.seconds(cost), cost.bytes, cost.launches
            sums[cost.name] = [a + b for a, b in zip(sums[cost.name], entry)]
        rows = sorted(sums.items(), key=lambda item: -item[1][0])
        return [(name, *row) for name, row in rows[: self.args.top]]


def row(estimate, peer, mode):
    """A row of a table."""
    args = estimate.args
    return (
        f'| {estimate.name} | {peer.name} | {mode} '
        f'| {estimate.total("flops") / args.batch / 1e9:.1f} '
        f'| {estimate.total("bytes") / 1e9:.1f} '
        f'| {estimate.total("launches")} | {estimate.bound * 1e3:.2f} '
        f'| {peer.bound / estimate.bound:.2f} |'
    )


HEAD = """\
| network | peer | mode | GFLOP an image | GB | launches | bound, ms | ratio |
| --- | --- | --- | --- | --- | --- | --- | --- |"""


def show_variants(variants):
    print('| kernel | launches | registers | spills | loads and stores | s |')
    print('| --- | --- | --- | --- | --- | --- |')
    for v in variants:
        used = '{registers} | {spills}'.format(**v.resources)
        moved = ', '.join(f'{n} {name}' for name, n in v.accesses.items())
        figures = f'{v.launches} | {used} | {moved} | {v.seconds:.1f}'
        print(f'| {v.name} | {figures} |')


def setting(args):
    return (
        'On paper, not measured: '
        f'{args.batch} x {args.shape[0]} x {args.shape[-1]}, '
        f'{f"AMP {args.amp}" if args.amp else "float32"}, '
        f'{"channels_last" if args.channels_last else "contiguous"}, '
        f'{args.bandwidth:g} TB/s, {args.tflops:g} TFLOP/s, {args.target}'
    )


def peer_of(name):
    name = name.rpartition(':')[2]
    return next(peer for key, peer in PEERS.items() if name.startswith(key))


def sizes(iterations, padded):
    """Heights and widths of multi-scale batches, the same in every run."""
    draw = random.Random(0)
    for _ in range(iterations):
        height, width = 0, 0
        for h, w in draw.choices(IMAGES, k=2):
            side = draw.choice(SHORT_SIDES)
            scale = min(side / min(h, w), LONGEST / max(h, w))
            height = max(height, round(h * scale))
            width = max(width, round(w * scale))
        step = 32 if padded else 1
        yield -(-height // step) * step, -(-width // step) * step


def count_variants(network, args):
    """Variants after each iteration of multi-scale training."""
    variants, counts, seen = Variants(args.target), [], set()
    for size in sizes(args.vary_sizes, not args.no_padding):
        if size not in seen:
            network.costs((2, 3, *size), True, variants)
        seen.add(size)
        counts.append(len(variants))
    return variants, counts


def vary_sizes(name, args):
    variants, counts = count_variants(load(name, args), args)
    text = ', '.join(map(str, counts))
    print(f'{name}, variants after each iteration: {text}')
    for kernel, count in collections.Counter(v.name for v in variants).items():
        print(f'  {count} {kernel}')


def report(name, args):
    peer_name = args.peer or peer_of(name)
    estimate = Estimate(name, args.train, args)
    peer = Estimate(peer_name, args.train, args)
    mode = 'training step' if args.train else 'evaluation'
    print(HEAD)
    print(row(estimate, peer, mode))
    print('\n| largest costs | bound, ms | GB | launches |')
    print('| --- | --- | --- | --- |')
    for cost, seconds, moved, launches in estimate.largest():
        figures = f'{seconds * 1e3:.2f} | {moved / 1e9:.2f} | {launches}'
        print(f'| {cost} | {figures} |')
    if len(estimate.variants) and not args.no_compile:
        print()
        show_variants(estimate.variants)


def table(names, args):
    print(HEAD)
    cached = functools.cache(lambda name, train: Estimate(name, train, args))
    for name in names:
        for train, mode in [(False, 'evaluation'), (True, 'training step')]:
            peer = cached(args.peer or peer_of(name), train)
            print(row(cached(name, train), peer, mode), flush=True)


def main(argv=None):
    args = parse_args(argv)
    if triton_support.INTERPRETED:
        raise cli.UserError(
            'kernels are compiled here: unset TRITON_INTERPRET'
        )
    print(setting(args))
    if args.table:
        table(args.names or TABLE, args)
        return
    for name in args.names:
        (vary_sizes if args.vary_sizes else report)(name, args)


if __name__ == '__main__':
    sys.exit(cli.run(main))
