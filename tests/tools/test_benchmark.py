"""tools/analysis_tools/benchmark.py.

Imported by its name, as processes that it spawns import it too.
"""

import functools
import json
import sys
from argparse import Namespace

import pytest
import torch
from PIL import Image

from mmctx.engine import cli
from tools.analysis_tools import _benchmark_runtimes, benchmark
from tools.analysis_tools._benchmark_models import build, build_backbone
from tools.analysis_tools._benchmark_ops import (
    OPERATORS,
    make_step,
    traffic,
)
from tools.analysis_tools._benchmark_timing import Stopwatch


@pytest.mark.parametrize('name', ['contnet_ti', 'coat_lite_tiny'])
def test_plain_model_computes_the_same(name):
    plain = build(f'plain:{name}').eval()
    x = torch.randn(2, 3, 64, 48)
    with torch.inference_mode():
        torch.testing.assert_close(
            plain(x), plain.model(x), rtol=1e-4, atol=1e-5
        )


def test_plain_model_holds_the_logits_of_attention():
    plain = build('plain:contnet_ti').eval()
    with torch.inference_mode(), torch.profiler.profile() as profile:
        plain(torch.randn(1, 3, 64, 64))
    names = {event.key for event in profile.key_averages()}
    assert any('softmax' in name for name in names)
    assert not any('flash' in name for name in names)


def test_unknown_models_are_named():
    for name in ('resnet50', 'keras:resnet50'):
        with pytest.raises(cli.UserError, match=f"'{name}' is no model"):
            build(name)


def test_figures_of_a_run(tmp_path, capsys):
    path, picture = tmp_path / 'figures.json', tmp_path / 'figures.png'
    benchmark.main(
        ['contnet_ti', 'op:local_aggregation', '--peer', 'plain:contnet_ti',
         '--rounds', '2', '--cases', 'eval:1x32x32', '--amp', 'bf16',
         '--channels-last', '--device', 'cpu', '--json', str(path),
         '--plot', str(picture)]
    )  # fmt: skip
    figures = json.loads(path.read_text())
    assert 'AMP bf16, eager, channels_last' in figures['setting']
    peer, ours = figures['models']
    assert peer['model'] == ours['peer'] == 'plain:contnet_ti'
    assert peer['speed_ratio'] == peer['peak_ratio'] == 1
    assert ours['seconds'] > 0 and ours['peak_mib'] > 0
    assert ours['images_per_s'] == 1 / ours['seconds']
    maps = [row['map'] for row in figures['operators']]
    assert maps == ['1x64x8x8', '1x128x4x4', '1x256x2x2', '1x512x1x1']
    for row in figures['operators']:
        assert row['peer'] == 'unfold' and row['peak_ratio'] is None
        assert row['copy_share'] == row['gb_per_s'] / row['copy_gb_per_s']
    output = capsys.readouterr().out
    assert '| eval:1x32x32 | contnet_ti |' in output
    assert '| op:local_aggregation | 1x64x8x8 | unfold |' in output
    with Image.open(picture) as image:
        assert image.width > 100


def test_ratios_are_those_within_a_round():
    counts = []

    def watch(step, calls=1):
        counts.append(calls)
        return step()

    watch.on_gpu = False
    # The first call, one that says how many a round needs, three rounds.
    times = dict(peer=[9, 9, 2, 4, 30], ours=[9, 9, 1, 1, 10])
    steps = {name: iter(t).__next__ for name, t in times.items()}
    figures = benchmark.compare(steps, 'peer', Namespace(rounds=3), watch)
    assert figures['ours']['seconds'] == 1
    assert figures['ours']['speed_ratio'] == 3
    assert figures['ours']['spread'] == [2, 4]
    assert figures['peer']['spread'] == [1, 1]
    assert counts[:2] == [1, 1] and min(counts[2:]) > 1


def test_stopwatch_takes_the_mean_of_calls(monkeypatch):
    clock = iter([0, 1, 10, 13, 20, 22]).__next__
    watch = Stopwatch(torch.device('cpu'))
    monkeypatch.setattr(
        'tools.analysis_tools._benchmark_timing.time',
        Namespace(perf_counter=clock),
    )
    assert watch(lambda: None, 3) == (1 + 3 + 2) / 3


@pytest.mark.parametrize('name', OPERATORS)
def test_both_forms_of_an_operator_compute_the_same(name):
    operator = OPERATORS[name]
    inputs = operator.make_inputs((2, 16, 5, 6))
    inputs = [x.requires_grad_() for x in inputs]
    results = []
    for function in (operator.ours, operator.peer):
        out = function(*inputs)
        results.append([out, *torch.autograd.grad(out.cos().sum(), inputs)])
    for a, b in zip(*results):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_traffic_of_a_pass():
    inputs = torch.zeros(2, dtype=torch.bfloat16), torch.zeros(3)
    forward = (4 + 12) + 4
    backward = (4 + 12) + 4 + (4 + 12)
    assert traffic('eval', inputs) == forward
    assert traffic('train', inputs) == forward + backward


def test_steps_of_an_operator():
    inputs = torch.randn(3), torch.randn(3)
    product = make_step(torch.mul, 'eval', inputs)()
    assert torch.equal(product, inputs[0] * inputs[1])
    run = make_step(torch.mul, 'train', inputs)
    for _ in range(2):
        a, b = run()
        torch.testing.assert_close(a * inputs[0], b * inputs[1])
        assert a.abs().min() > 0


@pytest.mark.parametrize(
    'argv, message',
    [
        (['op:attention'], "'op:attention' is no operator"),
        (['--rounds', '0'], 'rounds must be 1 or more'),
        (['--cases', 'eval:224'], "'eval:224' is not of the form"),
        (['--exports', 'folder'], 'are for --runtime'),
        (['--runtime', 'eager', '--cases', 'eval:2x64x64'], 'single images'),
        (['--runtime', 'eager', '--amp', 'bf16'], 'leave --amp away'),
        (
            ['op:local_aggregation', '--runtime', 'eager'],
            'takes models, not op:local_aggregation',
        ),
    ],
)
def test_wrong_arguments(argv, message):
    with pytest.raises(cli.UserError, match=message):
        benchmark.parse_args(argv)


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_missing_gpu():
    with pytest.raises(cli.UserError, match='no GPU'):
        benchmark.parse_args(['--device', 'cuda'])


def test_compiled_run(tmp_path, monkeypatch):
    """With a compiler that keeps what it is given."""
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiler = functools.partial(torch.compile, backend=keep)
    monkeypatch.setattr(torch, 'compile', compiler)
    path = tmp_path / 'figures.json'
    name = 'torchvision:squeezenet1_1'
    benchmark.main(
        [name, 'op:local_aggregation', '--peer', name, '--rounds', '1',
         '--cases', 'eval:1x32x32', '--compile', '--device', 'cpu',
         '--json', str(path)]
    )  # fmt: skip
    figures = json.loads(path.read_text())
    assert 'compiled' in figures['setting']
    (model,) = figures['models']
    assert model['peak_mib'] is None
    assert model['first_seconds'] > model['seconds']
    # the model, and the operator and its peer on four maps
    assert len(graphs) == 1 + 2 * 4


class Small(torch.nn.Sequential):
    """Exporters see another network, if it is ``fickle``."""

    fickle = False

    def __init__(self):
        super().__init__(
            torch.nn.Conv2d(3, 8, 3, 2),
            torch.nn.BatchNorm2d(8),
            torch.nn.ReLU(),
            torch.nn.AdaptiveAvgPool2d(1),
            torch.nn.Flatten(),
            torch.nn.Linear(8, 5),
        )

    def forward(self, x):
        return super().forward(x) + int(
            self.fickle and torch.compiler.is_exporting()
        )


def run_small_models(monkeypatch, tmp_path, names, *runtimes):
    """Rows of a run, by model and runtime."""

    def make(name):
        model = Small()
        model.fickle = name == 'fickle'
        return model

    monkeypatch.setattr(_benchmark_runtimes, 'build', make)
    monkeypatch.setitem(sys.modules, 'openvino', None)
    path = tmp_path / 'figures.json'
    benchmark.main(
        [*names, '--peer', 'peer', '--rounds', '1', '--cases', 'eval:1x64x64',
         '--runtime', *runtimes, '--exports', str(tmp_path / 'exports'),
         '--json', str(path), '--plot', str(tmp_path / 'figures.png')]
    )  # fmt: skip
    rows = json.loads(path.read_text())['runtimes']
    return {(row['model'], row['runtime']): row for row in rows}


def test_runtimes_side_by_side(tmp_path, monkeypatch, capsys):
    pytest.importorskip('onnxruntime')
    compiler = functools.partial(torch.compile, backend='eager')
    monkeypatch.setattr(torch, 'compile', compiler)
    rows = run_small_models(
        monkeypatch, tmp_path, ['ours', 'fickle'],
        'eager', 'compiled', 'onnxruntime', 'onnxruntime:int8', 'openvino',
    )  # fmt: skip
    assert len(rows) == 3 * 5
    for runtime in ('eager', 'compiled', 'onnxruntime', 'onnxruntime:int8'):
        row, peer = rows['ours', runtime], rows['peer', runtime]
        # Of one round.
        assert row['speed_ratio'] == peer['seconds'] / row['seconds']
        eager = rows['ours', 'eager']['seconds']
        assert row['eager_ratio'] == eager / row['seconds']
    assert 0 < rows['ours', 'onnxruntime']['difference'] < 1e-5
    assert 1e-4 < rows['ours', 'onnxruntime:int8']['difference'] < 0.2
    assert 0 <= rows['ours', 'onnxruntime:int8']['same_class'] <= 1
    wrong = rows['fickle', 'onnxruntime']
    assert wrong['error'] == 'another result than in eager mode'
    assert wrong['difference'] > 0.1 and 'seconds' not in wrong
    for name in ('ours', 'peer'):
        assert 'pip install openvino' in rows[name, 'openvino']['error']
    table = capsys.readouterr().out
    assert '| fickle | onnxruntime | another result than in eager' in table
    assert '| ours | openvino | OpenVINO is not installed: pip' in table


def test_files_of_other_weights_are_not_timed(tmp_path, monkeypatch, capsys):
    pytest.importorskip('onnxruntime')
    run = functools.partial(
        run_small_models, monkeypatch, tmp_path, ['peer'], 'onnxruntime'
    )
    run()
    assert 'peer: exporting' in capsys.readouterr().err
    assert 'seconds' in run()['peer', 'onnxruntime']
    assert 'exporting' not in capsys.readouterr().err
    monkeypatch.setattr(
        _benchmark_runtimes, 'leave_constants', torch.nn.Module.requires_grad_
    )
    assert 'another result' in run()['peer', 'onnxruntime']['error']


@pytest.mark.parametrize(
    'name',
    ['coat_lite_tiny', 'timm:resnet18', 'torchvision:resnet18',
     'torchvision:swin_t'],
)  # fmt: skip
def test_backbones(name):
    network = _benchmark_runtimes.Deployed(build_backbone(name), (64, 96))
    maps = network(torch.randn(1, 3, 64, 96))
    channels_last = name.endswith('swin_t')
    sizes = [tuple(x.shape[1:3] if channels_last else x.shape[2:])
             for x in maps]  # fmt: skip
    assert sizes[-4:] == [(16, 24), (8, 12), (4, 6), (2, 3)]


def test_unknown_backbones_are_named():
    with pytest.raises(cli.UserError, match='VGG: of torchvision only'):
        build_backbone('torchvision:vgg11')
    with pytest.raises(cli.UserError, match="'resnet50' is no model"):
        build_backbone('resnet50')
