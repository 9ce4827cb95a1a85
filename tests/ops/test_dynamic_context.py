"""The dynamic context of CoTNet, layer by layer and by kernels.

Tests of the kernels run on a GPU where there is one, else interpreted, in a
process of their own: see test_local_aggregation_triton.py.
"""

import copy
import os

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from mmctx.models.layers import CoTLayer, CoXtLayer
from mmctx.ops import dynamic_context, reference
from mmctx.ops.dynamic_context import gpu
from mmctx.ops.dynamic_context.autograd import normed_aggregation
from mmctx.ops.dynamic_context.reference import normed_aggregation_reference
from tests.helpers.interpreter import run_interpreted

INTERPRETED = os.environ.get('TRITON_INTERPRET') == '1'
HAS_GPU = torch.cuda.is_available()
DEVICE = 'cuda' if HAS_GPU and not INTERPRETED else 'cpu'
kernels = pytest.mark.skipif(
    not (INTERPRETED or HAS_GPU), reason='needs a GPU or the interpreter'
)
FORMATS = [torch.contiguous_format, torch.channels_last]


@pytest.mark.skipif(INTERPRETED, reason='this is the inner process')
def test_under_the_interpreter():
    """Runs every test marked `kernels` on CPU tensors."""
    pytest.importorskip('triton')
    run_interpreted(__file__)


@pytest.fixture
def fused(monkeypatch):
    """Lets CPU tensors pass for a GPU's; counts the calls of kernels."""
    calls = []
    function = gpu.dynamic_context
    monkeypatch.setattr(gpu, 'refuse_triton', lambda **tensors: None)
    monkeypatch.setattr(
        gpu,
        'dynamic_context',
        lambda *args: calls.append(1) or function(*args),
    )
    return calls


def make_inputs(shape=(2, 8, 2, 3, 3, 5), dtype=torch.float64, offset=0):
    n, c, g, k, h, w = shape
    value = torch.randn(n, c, h, w)
    weight = torch.randn(n, g, k * k, h, w) + offset
    rest = torch.randn(3, g, k * k)
    tensors = value, weight, *rest
    return [x.to(DEVICE, dtype).requires_grad_() for x in tensors]


def gradients(function, inputs, *options):
    """Output and gradients of all inputs, for a fixed gradient."""
    inputs = [x.detach().requires_grad_() for x in inputs]
    out = function(*inputs, 1e-5, *options)
    probe = torch.arange(out.numel(), device=out.device) % 5 - 2
    probe = probe.view(out.shape).to(out.dtype)
    return out.detach(), *torch.autograd.grad(out, inputs, probe)


def compare(inputs, *options, tolerance=1e-9):
    results = gradients(normed_aggregation, inputs, *options)
    inputs = [x.double() for x in inputs]
    exact = gradients(normed_aggregation_reference, inputs, *options)
    for a, b in zip(results, exact):
        torch.testing.assert_close(
            a.double(), b, rtol=tolerance, atol=tolerance
        )
    return results


@kernels
@pytest.mark.parametrize(
    'shape, options',
    [
        ((2, 8, 2, 3, 3, 5), (3, 1, 1)),
        ((1, 8, 1, 3, 9, 2), (3, 2, 1)),
        ((1, 12, 6, 3, 2, 2), (3, 1, 2)),
        ((1, 2, 1, 5, 1, 1), (5, 1, 1)),
        ((1, 9, 1, 3, 1, 17), (3, 1, 1)),
    ],
)
@pytest.mark.parametrize('layout', ['contiguous', 'channels_last', 'taps'])
def test_kernels_equal_reference(shape, options, layout):
    value, weight, *rest = make_inputs(shape)
    if layout != 'contiguous':
        value = value.to(memory_format=torch.channels_last)
        dims = (0, 3, 4, 2, 1) if layout == 'taps' else (0, 3, 4, 1, 2)
        inverse = [dims.index(i) for i in range(5)]
        weight = weight.permute(dims).contiguous().permute(inverse)
    results = compare([value, weight, *rest], *options)
    for a, b in zip(results[1:], (value, weight)):
        assert a.stride() == torch.empty_like(b).stride()


@kernels
def test_views_and_empty_batches():
    value, weight, *rest = make_inputs((2, 8, 2, 3, 3, 4))
    view = weight.repeat(1, 2, 1, 2, 2)[:, ::2, :, :3, ::2]
    compare([value[..., ::2].repeat(1, 1, 1, 2), view, *rest], 3, 1, 1)
    inputs = [value[:0], weight[:0], *rest]
    results = gradients(normed_aggregation, inputs, 3, 1, 1)
    assert results[0].shape == value[:0].shape
    assert all(not x.any() for x in results)


@kernels
@pytest.mark.parametrize('offset', [0, 1000])
def test_a_mean_far_from_zero(offset):
    """Of float32 weights that vary by a thousandth of their mean."""
    inputs = make_inputs(dtype=torch.float32, offset=offset)
    compare(inputs, 3, 1, 1, tolerance=1e-4 if offset == 0 else 5e-3)


@kernels
def test_half_precision():
    value, weight, *rest = make_inputs(dtype=torch.float32)
    half = [value.half(), weight.half(), *rest]
    results = compare(half, 3, 1, 1, tolerance=2e-2)
    assert [x.dtype for x in results[1:]] == [x.dtype for x in half]


@kernels
def test_second_derivatives():
    inputs = make_inputs((1, 4, 2, 3, 2, 2))
    results = []
    for function in (normed_aggregation, normed_aggregation_reference):
        out = function(*inputs, 1e-5, 3, 1, 1)
        first = torch.autograd.grad(out.square().sum(), inputs, None, None, 1)
        total = sum(x.square().sum() for x in first)
        results.append(torch.autograd.grad(total, inputs))
    for a, b in zip(*results):
        torch.testing.assert_close(a, b)


@kernels
def test_operator_registration():
    inputs = make_inputs((1, 4, 2, 3, 2, 1))
    torch.library.opcheck(normed_aggregation, (*inputs, 1e-5, 3, 1, 1))


def make_layer(layer_type=CoTLayer, **kwargs):
    layer = layer_type(16, **kwargs).to(DEVICE, torch.float64)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, 0.1, 0.5)
    for module in layer.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return layer


def outputs(layer, x):
    """Output, and gradients of input and parameters."""
    x = x.detach().requires_grad_()
    out = layer(x)
    grads = torch.autograd.grad(out.square().sum(), [x, *layer.parameters()])
    return [out.detach(), *grads]


@kernels
@pytest.mark.parametrize('layer_type', [CoTLayer, CoXtLayer])
@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('memory_format', FORMATS)
def test_layers_in_fewer_passes(layer_type, training, memory_format, fused):
    layer = make_layer(layer_type).train(training)
    x = torch.randn(2, 16, 3, 4, dtype=torch.float64, device=DEVICE)
    x = x.to(memory_format=memory_format)
    with reference():
        expected = outputs(copy.deepcopy(layer), x)
    results = outputs(copy.deepcopy(layer), x)
    for a, b in zip(results, expected):
        torch.testing.assert_close(a, b)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected[0])
    assert len(fused) == 2


@kernels
def test_autocast(fused):
    layer = make_layer(kernel_size=5, dilation=2).float().eval()
    x = torch.randn(1, 16, 5, 3, device=DEVICE)
    with torch.no_grad(), reference():
        exact = copy.deepcopy(layer).double()(x.double())
        with torch.autocast(DEVICE, torch.bfloat16):
            plain = layer(x).double()
    with torch.no_grad(), torch.autocast(DEVICE, torch.bfloat16):
        result = layer(x).double()
    assert fused
    error, plain_error = ((y - exact).std() for y in (result, plain))
    assert error < 1.5 * plain_error


def hooked(layer):
    layer.attention[2].register_forward_hook(lambda *args: None)


def parametrised(layer):
    parametrize.register_parametrization(
        layer.attention[0], 'weight', nn.Identity()
    )


def adapted(layer):
    class Adapter(nn.Conv2d):
        pass

    layer.attention[3] = Adapter(8, 18, 1)


CHANGES = {
    'hook': hooked,
    'parametrised': parametrised,
    'adapter': adapted,
    'no norm': lambda layer: layer.attention.pop(4),
    'norm without scale': lambda layer: layer.attention.__setitem__(
        4, nn.GroupNorm(2, 18, affine=False)
    ),
    'another norm': lambda layer: layer.attention.__setitem__(
        4, nn.GroupNorm(1, 18)
    ),
    'no bias': lambda layer: layer.attention.__setitem__(
        3, nn.Conv2d(8, 18, 1, bias=False)
    ),
    'a bias': lambda layer: layer.attention.__setitem__(
        0, nn.Conv2d(32, 8, 1)
    ),
    '3 x 3': lambda layer: layer.attention.__setitem__(
        0, nn.Conv2d(32, 8, 3, padding=1, bias=False)
    ),
}


@torch.no_grad()
@pytest.mark.parametrize('change', CHANGES)
def test_other_layers_are_called(change, fused):
    layer = make_layer()
    args = layer.attention, layer.value, layer.dynamic_norm, layer.act, 3, 1, 1
    x = torch.randn(2, 16, 3, 4, dtype=torch.float64, device=DEVICE)
    assert gpu.refuse(x, x, *args) is None
    CHANGES[change](layer.to(DEVICE))
    layer.to(x)
    assert gpu.refuse(x, x, *args) is not None
    layer.eval()
    with reference():
        expected = dynamic_context(x, x, *args)
    torch.testing.assert_close(dynamic_context(x, x, *args), expected)
    assert not fused


def test_only_kernels_take_the_layers_apart():
    layer = make_layer().cpu()
    args = layer.attention, layer.value, layer.dynamic_norm, layer.act, 3, 1, 1
    x = torch.randn(2, 16, 3, 4, dtype=torch.float64)
    assert 'GPU' in gpu.refuse(x, x, *args) or 'Triton' in gpu.refuse(
        x, x, *args
    )
    with reference():
        assert 'reference' in gpu.refuse(x, x, *args)
