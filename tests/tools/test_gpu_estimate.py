"""tools/analysis_tools/gpu_estimate.py, and with it what our kernels and
networks would do on a GPU: on tensors without data, compiled but not run."""

import collections
import functools
from argparse import Namespace

import pytest
import torch
import torch.nn as nn
from mmengine.registry import MODELS

import mmctx.ops
from mmctx.engine import cli
from mmctx.models.layers.contextual_conv import SamplingPredictor
from tests.helpers.backbones import TINY, build_tiny

pytest.importorskip('triton')

from tools.analysis_tools import gpu_estimate
from tools.analysis_tools._gpu_kernels import Variants
from tools.analysis_tools._gpu_trace import Network, _backward

#: Networks with kernels of ours, a block for each width.
WITH_KERNELS = {
    'CoTNet': dict(type='CoTNet', depth=(1, 1, 1, 1)),
    'ContextualConvNeXt': dict(
        type='ContextualConvNeXt',
        arch=dict(depths=(1, 1, 1, 1), channels=(96, 192, 384, 768)),
        contextual_every=1,
    ),
}
#: With MLPs of the most channels that stay on the chip.
WITH_MLPS = dict(
    type='Container',
    arch=dict(
        embed_dims=(64, 128, 320, 512),
        depths=(1, 1, 1, 1),
        mlp_ratios=(8, 8, 4, 4),
        aggregation=dict(dynamic='none'),
    ),
)
#: No size of a parameter is a multiple of this number of images.
BATCH = 5
IMAGES = (BATCH, 3, 64, 96)


@pytest.fixture(autouse=True, scope='module')
def fast_algorithms():
    """As networks are trained: a GPU's deterministic interpolation is slow."""
    torch.use_deterministic_algorithms(False)
    yield
    torch.use_deterministic_algorithms(True, warn_only=True)


def trace(model, shape, train=True, amp=torch.bfloat16, target='sm_90'):
    variants = Variants(target)
    network = Network(model, amp, channels_last=True)
    return network.costs(shape, train, variants), variants


def names(costs):
    return [cost.name for cost in costs]


@pytest.fixture(scope='module')
def launched():
    """A variant of each kernel, and of that for MLPs for all channels."""
    kernels = {}
    for config in (*WITH_KERNELS.values(), WITH_MLPS):
        for train in (False, True):
            model = MODELS.build(config)
            _, variants = trace(model, (8, 3, 512, 512), train)
            for variant in variants:
                channels = variant.kwargs.get('HIDDEN')
                kernels.setdefault((variant.name, channels), variant)
    return kernels.values()


@pytest.fixture(scope='module')
def compiled(launched):
    """A variant of each kernel for a target."""

    @functools.cache
    def compile_for(target):
        variants = Variants(target)
        for seen in launched:
            variants.launch(seen.kernel, 1, seen.args, seen.kwargs)
        return list(variants)

    return compile_for


@pytest.mark.parametrize('target', ['sm_80', 'sm_90', 'gfx942'])
def test_every_kernel_compiles(target, compiled):
    variants = compiled(target)
    kernels = {variant.name for variant in variants}
    assert {'_aggregate', '_weight_gradient', '_forward', '_mlp'} <= kernels
    for variant in variants:
        assert 0 < variant.resources['registers'] <= 512


@pytest.mark.parametrize('target', ['sm_80', 'sm_90', 'gfx942'])
def test_no_kernel_spills_registers(target, compiled):
    for variant in compiled(target):
        assert variant.resources['spills'] == 0, variant.name


#: They read offsets, a bias for each tap, and statistics.
NARROW = ('_keys', '_moments', '_scale_and_shift')


def test_kernels_load_several_elements_at_once(compiled):
    for variant in compiled('sm_90'):
        if variant.name in NARROW:
            continue
        bits = {
            int(kind[4:]): count * int(kind[4:])
            for kind, count in variant.accesses.items()
            if kind.startswith('LDG')
        }
        wide = sum(n for width, n in bits.items() if width >= 64)
        assert wide >= sum(bits.values()) / 2, (variant.name, bits)


@pytest.mark.parametrize('padded', [True, False])
@pytest.mark.parametrize('name', WITH_KERNELS)
def test_varying_sizes_need_few_variants(name, padded):
    """60 iterations: gpu_estimate.py --vary-sizes; here a part of them."""
    args = Namespace(target='sm_90', vary_sizes=6, no_padding=not padded)
    network = Network(MODELS.build(WITH_KERNELS[name]), torch.float16, True)
    variants, _ = gpu_estimate.count_variants(network, args)
    assert 0 < len(variants) <= 14


def casts(costs):
    """Shapes of half-precision feature maps that are copied to float32."""
    return {
        tuple(cost.outputs[0].shape)
        for cost in costs
        if cost.name.endswith('_to_copy')
        and cost.inputs[0].dtype == torch.bfloat16
        and cost.outputs[0].dtype == torch.float32
        and is_feature_map(cost.outputs[0])
    }


def is_feature_map(x):
    """Not a vector of an image, its class token or its depth-wise kernel."""
    return x.dim() > 2 and x.shape[0] % BATCH == 0 and 1 not in x.shape[1:]


def narrow_shapes(name):
    """Shapes of what sampling offsets are predicted from.

    A fourth or a sixteenth of the channels, from which a convolution predicts
    in float32: bfloat16 would place samples on a grid of 1/32 pixel.
    """
    model, shapes = build_tiny(name), set()
    for module in model.modules():
        if isinstance(module, SamplingPredictor):
            module.predict.register_forward_pre_hook(
                lambda _, args: shapes.add(tuple(args[0].shape))
            )
    model(torch.randn(IMAGES))
    return shapes


@functools.cache
def traced_step(name):
    """A training step; synchronising or reading a value would raise."""
    model = build_tiny(name, half_norms=True)
    costs, _ = trace(model, IMAGES)
    assert any('backward' in cost.name for cost in costs)
    return costs


@pytest.mark.parametrize('name', TINY)
def test_nothing_forbids_the_capture_of_a_training_step(name):
    """No value on the host, no data-dependent shape: CUDA graphs work."""
    for cost in traced_step(name):
        for x in (*cost.inputs, *cost.outputs):
            assert x.is_cuda or x.dim() == 0, cost


@pytest.mark.parametrize('name', TINY)
def test_no_feature_map_is_copied_to_float32(name):
    """Class scores and sums over tokens read half precision, too."""
    assert casts(traced_step(name)) == narrow_shapes(name)


@pytest.mark.parametrize('name', ['CoaT', 'CoaT parallel'])
def test_no_weight_is_copied_for_each_image(name):
    """Nor has it a gradient of its own for each (F4)."""
    shapes = {p.shape for p in build_tiny(name).parameters() if p.dim() == 2}
    per_image = {
        (BATCH, *shape[::order])
        for shape in shapes
        for order in (1, -1)
        if shape[0] != shape[1]  # as tokens of an image may be
    }
    for cost in traced_step(name):
        for x in (*cost.inputs, *cost.outputs):
            assert tuple(x.shape) not in per_image, cost


@pytest.mark.parametrize(
    'wait',
    [
        lambda x: x * float(x.mean()),
        lambda x: x * len(x.nonzero()),
        lambda x: x[x > 0],
    ],
)
def test_waiting_for_the_gpu_is_an_error(wait):
    class Waits(nn.Module):
        def forward(self, x):
            return wait(x)

    with pytest.raises(RuntimeError):
        trace(Waits(), (2, 3, 4, 4), train=False)


def test_bytes_and_operations_of_a_layer():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.ReLU(True))
    costs, _ = trace(model, (2, 3, 4, 4), train=False, amp=None)
    found = {cost.name: (cost.bytes, cost.flops) for cost in costs}
    image, output = 2 * 3 * 16 * 4, 2 * 8 * 16 * 4
    assert found == {
        'conv 1x1': (image + 8 * 3 * 4 + output, 2 * 2 * 8 * 16 * 3),
        'conv bias': (2 * output, 0),
        'cudnn_batch_norm': (2 * output + 4 * 8 * 4 + 0, 0),
        'relu_': (2 * output, 0),
    }


def test_views_and_memory_cost_nothing():
    class Views(nn.Module):
        def forward(self, x):
            torch.empty_like(x)
            return x.permute(0, 2, 3, 1)[:, 1:].flatten(1, 2).expand(2, -1, -1)

    costs, _ = trace(Views(), (1, 3, 4, 4), train=False)
    assert not costs


def test_kernels_read_and_write_their_tensors_once():
    class Aggregates(nn.Module):
        def forward(self, x):
            weight = x.new_empty(2, 4, 9, 8, 8)
            return mmctx.ops.local_aggregation(x, weight, 3)

    shape = (2, 32, 8, 8)
    (cost,), variants = trace(Aggregates(), shape, train=False, amp=None)
    assert cost.name == 'local_aggregation: _aggregate'
    assert cost.bytes == 4 * (2 * 2 * 32 * 64 + 2 * 4 * 9 * 64)
    assert len(variants) == 1
    # More than the 72 products of a thread's 8 channels.
    assert cost.variant.issued > cost.variant.compiled.metadata.num_warps * 72


@pytest.mark.parametrize('name', ['CoTNet', 'ConTNet', 'ContextualConvNeXt'])
def test_walks_the_graph_as_autograd_does(name):
    """The same operators in a backward pass on a CPU."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Names(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.names = collections.Counter()

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.names[func.__name__.split('.')[0].rstrip('_')] += 1
            return func(*args, **(kwargs or {}))

    def backward(walk):
        torch.manual_seed(0)
        outputs = build_tiny(name)(torch.randn(2, 3, 64, 64))
        recorder = Names()
        with recorder:
            if walk:
                with torch.no_grad():
                    _backward(outputs)
            else:
                torch.autograd.backward(
                    outputs, [torch.empty_like(y) for y in outputs]
                )
        # Views, and what stores gradients in parameters.
        for view in ('detach', 'view', 'alias', 'new_empty_strided', 'copy'):
            recorder.names.pop(view, None)
        return recorder.names

    assert backward(walk=True) == backward(walk=False)


def test_prints_a_report(capsys):
    arguments = '--peer plain:contnet_ti --batch 2 --shape 64 96 --amp'
    assert gpu_estimate.main(['contnet_ti', *arguments.split()]) is None
    output = capsys.readouterr().out
    assert 'On paper, not measured: 2 x 64 x 96, AMP bf16' in output
    assert '| contnet_ti | plain:contnet_ti | evaluation |' in output
    assert '| largest costs |' in output


def test_prints_a_table_and_the_backbone_of_a_config(capsys):
    config = 'configs/cotnet/cotnet50_8xb80-ema-350e_in1k.py'
    arguments = '--table --no-compile --batch 2 --shape 32 --channels-last'
    gpu_estimate.main([config, *arguments.split()])
    output = capsys.readouterr().out
    for mode in ('evaluation', 'training step'):
        assert f'| {config} | torchvision:resnet50 | {mode} |' in output


def test_draws_the_same_sizes_each_time():
    padded = list(gpu_estimate.sizes(60, padded=True))
    assert padded == list(gpu_estimate.sizes(60, padded=True))
    assert all(h % 32 == w % 32 == 0 for h, w in padded)
    assert max(map(max, padded)) <= 1344
    assert len(set(padded)) > 20


@pytest.mark.parametrize(
    'argv, message',
    [
        (['cotnet50', '--target', 'H100'], "target 'H100' is not of the form"),
        (['nonsense'], "'nonsense' is no model"),
        (['nonsense.py'], 'nonsense.py does not exist'),
    ],
)
def test_wrong_arguments(argv, message):
    with pytest.raises(cli.UserError, match=message):
        gpu_estimate.main(argv)


@pytest.mark.parametrize('argv', [[], ['cotnet50', '--batch', '0']])
def test_unusable_arguments(argv):
    with pytest.raises(SystemExit):
        gpu_estimate.parse_args(argv)
