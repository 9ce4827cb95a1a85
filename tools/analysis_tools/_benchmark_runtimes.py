"""The runtimes that benchmark.py compares: what a deployed model costs."""

import contextlib
import logging
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, partial
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Callable
from unittest import mock

import torch
from torch import Tensor, nn

from mmctx.engine import cli, export
from mmctx.engine.export.check import TOLERANCE, compare, images
from mmctx.engine.export.network import Network
from tools.analysis_tools._benchmark_models import build, build_backbone, step
from tools.analysis_tools._benchmark_timing import (
    median_and_ratios,
    time_rounds,
)
from tools.analysis_tools.export_table import leave_constants

CALIBRATION_IMAGES = 4
#: Not sums and products: among those are the coordinates of sampling points.
INT8_OPERATORS = ['Conv', 'Gemm', 'MatMul', 'MaxPool', 'Relu']
#: Images that a runtime is compared on: classifiers, backbones.
CHECKED_IMAGES, CHECKED_MAPS = 16, 2

Run = Callable[[Tensor], Iterable[Tensor]]


class Deployed(Network):
    """A model for images of one size.

    Args:
        model (nn.Module): Images to outputs in any container.
        shape (Sequence[int]): Height and width.
    """

    task = 'feature maps'

    def __init__(self, model: nn.Module, shape: Sequence[int]) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.fixed_shape = tuple(shape)
        count = len(self.run(torch.zeros(1, 3, *shape)))
        self.outputs = tuple(f'output{i}' for i in range(count))

    def run(self, x: Tensor) -> tuple[Tensor, ...]:
        """Images to a tuple of outputs."""
        outputs = self.model(x)
        if isinstance(outputs, dict):
            outputs = outputs.values()
        return (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)


class Subject:
    """A model for one image size, and its files, written when asked for.

    Args:
        name (str): As the command takes it.
        backbone (bool): Without the head.
        shape (Sequence[int]): Height and width.
        folder (Path): Where the files are, or go.
    """

    def __init__(self, name, backbone, shape, folder):
        self.name, self.backbone, self.shape = name, backbone, shape
        torch.manual_seed(0)  # The same weights as in the files.
        model = (build_backbone if backbone else build)(name)
        leave_constants(model)
        self.network = Deployed(model, shape)
        kind = '-backbone' if backbone else ''
        size = 'x'.join(map(str, shape))
        stem = re.sub(r'\W+', '-', name)
        self.path = folder / f'{stem}{kind}_{size}.onnx'

    def batches(self, count: int, first: int = 0) -> Iterator[Tensor]:
        """Single images, numbered from ``first``."""
        for seed in range(first, first + count):
            yield images(self.network, (1, *self.shape), seed)

    @cached_property
    def references(self) -> list[tuple[Tensor, tuple[Tensor, ...]]]:
        """Images, and the model's outputs."""
        count = CHECKED_MAPS if self.backbone else CHECKED_IMAGES
        with torch.inference_mode():
            return [(x, self.network.run(x)) for x in self.batches(count)]

    def file(self) -> Path:
        """In float32."""
        export.require_onnx()
        if not self.path.exists():
            say(f'{self.name}: exporting')
            with unfinished(self.path) as path:
                export.save(self.network, path, 'onnx', self.shape, False, {})
        return self.path

    def int8_file(self) -> Path:
        """Calibrated on images other than those for the comparison."""
        out = self.path.with_suffix('.int8.onnx')
        if not out.exists():
            source = self.file()
            say(f'{self.name}: quantising')
            with unfinished(out) as path:
                batches = self.batches(CALIBRATION_IMAGES, first=100)
                quantise(source, path, batches)
        return out


def say(what: str) -> None:
    """Show progress."""
    print(f'{time.strftime("%H:%M:%S")} {what}', file=sys.stderr, flush=True)


@contextlib.contextmanager
def unfinished(path: Path) -> Iterator[Path]:
    """A path for writing; the file gets its name once it is whole."""
    temporary = path.with_name(f'.{os.getpid()}{path.name}')
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def quantise(source: Path, out: Path, batches: Iterable[Tensor]) -> None:
    """Write the int8 form of an ONNX file.

    Static: weights by channel, the inputs of layers by the range that they
    have on the batches. Written as QDQ, which other runtimes read, too.
    """
    from onnxruntime.quantization import QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    feeds = iter([dict(images=x.numpy()) for x in batches])
    logging.disable(logging.WARNING)  # About each weight of one channel.
    try:
        quant_pre_process(source, out, skip_symbolic_shape=True)
        quantize_static(
            out,
            out,
            SimpleNamespace(get_next=lambda: next(feeds, None)),
            op_types_to_quantize=INT8_OPERATORS,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    finally:
        logging.disable(logging.NOTSET)


def _eager(subject: Subject) -> Run:
    return subject.network.run


def _compiled(subject: Subject) -> Run:
    return torch.compile(subject.network.run, dynamic=False)


def _onnxruntime(file: Callable, subject: Subject) -> Run:
    return export.read(file(subject))[0]


def _openvino(file: Callable, subject: Subject) -> Run:
    try:
        import openvino
    except ImportError as error:
        raise cli.UserError(
            'OpenVINO is not installed: pip install openvino'
        ) from error
    settings = dict(
        INFERENCE_NUM_THREADS=torch.get_num_threads(),
        # Its default is bfloat16 where the processor has it.
        INFERENCE_PRECISION_HINT='f32',
        PERFORMANCE_HINT='LATENCY',
    )
    model = openvino.Core().compile_model(file(subject), 'CPU', settings)
    return lambda x: [torch.from_numpy(y) for y in model(x.numpy()).values()]


RUNTIMES: dict[str, Callable[[Subject], Run]] = {
    'eager': _eager,
    'compiled': _compiled,
    'onnxruntime': partial(_onnxruntime, Subject.file),
    'onnxruntime:int8': partial(_onnxruntime, Subject.int8_file),
    'openvino': partial(_openvino, Subject.file),
    'openvino:int8': partial(_openvino, Subject.int8_file),
}


def prepare(subject: Subject, runtime: str) -> dict:
    """A model in a runtime as ``run``, and how far it agrees with eager.

    Or the ``error`` that forbids to time it.
    """
    say(f'{subject.name}: {runtime}')
    try:
        run = RUNTIMES[runtime](subject)
        facts = agreement(run, subject)
    except Exception as error:
        return dict(error=cli.describe(error))
    if not runtime.endswith(':int8') and not facts['difference'] <= TOLERANCE:
        return dict(facts, error='another result than in eager mode')
    return dict(facts, run=run)


@torch.inference_mode()
def agreement(run: Run, subject: Subject) -> dict:
    """Largest relative difference, and the share of equal top classes."""
    differences, same = [], []
    for x, expected in subject.references:
        outputs = list(run(x))
        differences.append(
            compare(lambda _, y=expected: y, subject.network, x, outputs)[0]
        )
        same.append(outputs[0].argmax(1).eq(expected[0].argmax(1)))
    if subject.backbone:
        return dict(difference=max(differences))
    share = torch.cat(same).float().mean().item()
    return dict(difference=max(differences), same_class=share)


def add_figures(rows: list[dict], seconds: dict) -> None:
    """Add times and ratios, to the peer in the same runtime and to eager."""
    for row in rows:
        row.update(speed_ratio=None, eager_ratio=None)
        times = seconds.get((row['model'], row['runtime']))
        if not times:
            continue
        # It may not run in eager mode here, nor its peer in this runtime.
        peer = seconds.get((row['peer'], row['runtime']))
        eager = seconds.get((row['model'], 'eager'))
        row['seconds'] = statistics.median(times)
        if peer:
            _, row['speed_ratio'], row['spread'] = median_and_ratios(
                times, peer
            )
        if eager:
            _, row['eager_ratio'], _ = median_and_ratios(times, eager)


def versions() -> Iterator[str]:
    """Of the packages that run models, as far as they are installed."""
    for name in ('torch', 'onnxruntime', 'openvino'):
        with contextlib.suppress(metadata.PackageNotFoundError):
            yield f'{name} {metadata.version(name)}'


def run_runtimes(names, case, shape, args, stopwatch) -> list[dict]:
    """Figures of all models in all runtimes in one case."""
    torch._dynamo.reset()
    rows, steps = [], {}
    with contextlib.ExitStack() as stack:
        folder = Path(
            args.exports or stack.enter_context(tempfile.TemporaryDirectory())
        ).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        if args.exports:
            cache = dict(TORCHINDUCTOR_CACHE_DIR=str(folder / 'compiled'))
            stack.enter_context(mock.patch.dict(os.environ, cache))
        for name in names:
            subject = Subject(name, args.backbones, shape, folder)
            x = next(subject.batches(1))
            for runtime in args.runtime:
                row = prepare(subject, runtime)
                if 'run' in row:
                    run = row.pop('run')
                    steps[name, runtime] = partial(step, run, 'eval', x)
                key = dict(case=case, model=name, runtime=runtime)
                rows.append(dict(key, peer=args.peer, **row))
        say(f'timing {len(steps)} models')
        add_figures(rows, time_rounds(stopwatch, steps, args.rounds))
    return rows
