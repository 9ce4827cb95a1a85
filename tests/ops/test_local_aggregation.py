import os

import pytest
import torch
from torch._dynamo.backends.common import aot_autograd
from torch.utils._python_dispatch import TorchDispatchMode

from mmctx.ops import local_aggregation, reference
from mmctx.ops.local_aggregation import cpu

BACKENDS = ('reference', 'cpu')
SHAPES = [
    # n, c, g, k, h, w
    (2, 8, 2, 3, 5, 7),
    (1, 6, 3, 3, 1, 1),
    (1, 4, 4, 5, 2, 3),
    (2, 4, 1, 7, 3, 9),
    (1, 4, 2, 3, 1, 5),
    (3, 6, 2, 5, 6, 1),
]
backends = pytest.mark.parametrize('backend', BACKENDS)
dilations = pytest.mark.parametrize('dilation', [1, 2])


def make(n, c, g, k, h, w, dtype=torch.float64):
    value = torch.randn(n, c, h, w, dtype=dtype, requires_grad=True)
    weight = torch.randn(n, g, k * k, h, w, dtype=dtype, requires_grad=True)
    return value, weight


def by_definition(value, weight, k, dilation):
    """The docstring's sum, one element at a time."""
    h, w = value.shape[2:]
    g = weight.shape[1]
    out = torch.zeros_like(value)
    for i, j, y, x in torch.cartesian_prod(*map(torch.arange, value.shape)):
        for t in range(k * k):
            yy = y + dilation * (t // k - k // 2)
            xx = x + dilation * (t % k - k // 2)
            if 0 <= yy < h and 0 <= xx < w:
                out[i, j, y, x] += (
                    weight[i, j % g, t, y, x] * value[i, j, yy, xx]
                )
    return out


@backends
@dilations
@pytest.mark.parametrize('shape', SHAPES[:4])
def test_definition(backend, dilation, shape):
    value, weight = (x.detach() for x in make(*shape))
    out = local_aggregation(value, weight, shape[3], backend, dilation)
    expected = by_definition(value, weight, shape[3], dilation)
    torch.testing.assert_close(out, expected)


@backends
@dilations
@pytest.mark.parametrize('shape', SHAPES)
def test_gradients(backend, dilation, shape):
    inputs = make(*shape)

    def function(value, weight):
        return local_aggregation(value, weight, shape[3], backend, dilation)

    assert torch.autograd.gradcheck(function, inputs, fast_mode=True)


@backends
def test_heads_are_slices_of_the_channels(backend):
    value, weight = make(2, 12, 4, 3, 4, 5)
    inputs = [value.detach().to(memory_format=torch.channels_last), weight]
    for x in inputs:
        x.requires_grad_()

    def function(value, weight):
        return local_aggregation(value, weight, 3, backend, heads=2)

    heads = [
        local_aggregation(*slices, 3, 'reference')
        for slices in zip(*(x.chunk(2, 1) for x in inputs))
    ]
    torch.testing.assert_close(function(*inputs), torch.cat(heads, 1))
    assert torch.autograd.gradcheck(function, inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


@backends
@dilations
@pytest.mark.parametrize('shape', SHAPES[:3])
def test_second_derivatives(backend, dilation, shape):
    inputs = make(*shape)

    def function(value, weight):
        return local_aggregation(value, weight, shape[3], backend, dilation)

    assert torch.autograd.gradgradcheck(function, inputs, fast_mode=True)


def test_forward_mode_derivatives():
    """By default; a backend that would lose them refuses."""
    value, weight = (x.detach() for x in make(*SHAPES[0]))
    tangents = value.flip(3), weight.flip(3)

    def function(value, weight, backend=None):
        return local_aggregation(value, weight, 3, backend)

    _, derivative = torch.func.jvp(function, (value, weight), tangents)
    # Linear in either input.
    expected = function(tangents[0], weight) + function(value, tangents[1])
    torch.testing.assert_close(derivative, expected)
    with pytest.raises(ValueError, match="'cpu' cannot run here"):
        torch.func.jvp(
            lambda value: function(value, weight, 'cpu'),
            (value,),
            tangents[:1],
        )


@backends
def test_empty_batch(backend):
    value, weight = make(0, 8, 2, 3, 5, 7)
    out = local_aggregation(value, weight, 3, backend)
    out.sum().backward()
    assert out.shape == value.grad.shape == value.shape
    assert weight.grad.shape == weight.shape


@pytest.mark.parametrize('shape', SHAPES)
def test_backends_agree_on_strided_inputs(shape):
    value, weight = make(*shape)
    value = value.detach().to(memory_format=torch.channels_last)
    weight = weight.detach().transpose(-1, -2).contiguous().transpose(-1, -2)
    results = []
    for backend in BACKENDS:
        v, w = value.clone().requires_grad_(), weight.clone().requires_grad_()
        out = local_aggregation(v, w, shape[3], backend)
        (
            out * torch.linspace(-1, 1, out.numel()).view_as(out)
        ).sum().backward()
        results.append((out, v.grad, w.grad))
    for a, b in zip(*results):
        torch.testing.assert_close(a, b)


@backends
@pytest.mark.parametrize('needs', [(True, False), (False, True)])
def test_one_gradient_at_a_time(backend, needs):
    value, weight = (
        x.detach().requires_grad_(need)
        for x, need in zip(make(*SHAPES[0]), needs)
    )
    local_aggregation(value, weight, 3, backend).sum().backward()
    assert (value.grad is not None, weight.grad is not None) == needs


@backends
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_accumulates_in_float32(backend, dtype):
    """Rounded once: within half a unit in the last place of the exact sum."""
    value, weight = (x.detach() for x in make(1, 8, 1, 7, 9, 9, dtype=dtype))
    out = local_aggregation(value, weight, 7, backend)
    exact = local_aggregation(value.double(), weight.double(), 7, 'reference')
    assert out.dtype == dtype
    bound = torch.finfo(dtype).eps / 2 * exact.abs() * 1.01 + 1e-5
    assert ((out.double() - exact).abs() <= bound).all()


@backends
def test_mixed_dtypes_as_under_autocast(backend):
    value = torch.randn(1, 4, 5, 5).bfloat16().requires_grad_()
    weight = torch.randn(1, 2, 9, 5, 5, requires_grad=True)
    out = local_aggregation(value, weight, 3, backend)
    out.sum().backward()
    assert out.dtype == value.grad.dtype == torch.bfloat16
    assert weight.grad.dtype == torch.float32


class LargestAllocation(TorchDispatchMode):
    """Elements of the largest fresh tensor that any operator returns."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        known = {
            a.untyped_storage().data_ptr()
            for a in args
            if isinstance(a, torch.Tensor)
        }
        if (
            isinstance(out, torch.Tensor)
            and out.untyped_storage().data_ptr() not in known
        ):
            self.largest = max(self.largest, out.numel())
        return out


def test_cpu_backend_copies_no_taps():
    """No intermediate is larger than one feature map, forward and backward."""
    value, weight = (x.detach() for x in make(2, 16, 2, 3, 8, 8))
    with LargestAllocation() as mode:
        out = cpu.forward(value, weight, 3, 1, 1)
    assert mode.largest == value.numel()
    with LargestAllocation() as mode:
        cpu.backward(out, value, weight, 3, 1, 1)
    assert mode.largest == max(value.numel(), weight.numel())


@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('size', [1, 80])
def test_slices_of_any_size(shape, size, monkeypatch):
    """One weight channel at a time, and some channels or images."""
    value, weight = (x.detach() for x in make(*shape))
    geometry = shape[3], 1, 1
    whole = cpu.forward(value, weight, *geometry)
    grads = cpu.backward(whole, value, weight, *geometry)
    monkeypatch.setattr(cpu, 'SLICE', size)
    torch.testing.assert_close(cpu.forward(value, weight, *geometry), whole)
    for a, b in zip(cpu.backward(whole, value, weight, *geometry), grads):
        torch.testing.assert_close(a, b)


class Operators(TorchDispatchMode):
    """Names of the operators that run."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.name())
        return func(*args, **(kwargs or {}))


def names_of_operators(function, *args):
    with Operators() as operators:
        function(*args)
    return operators.names


def test_reference_mode_switches_the_operator_off():
    value, weight = make(*SHAPES[0])
    name = 'mmctx::local_aggregation'
    assert name in names_of_operators(local_aggregation, value, weight, 3)
    with reference():
        names = names_of_operators(local_aggregation, value, weight, 3)
    assert name not in names


def test_operator_registration():
    """Fake and autograd implementations are consistent."""
    inputs = make(1, 4, 2, 3, 5, 6)
    torch.library.opcheck(
        torch.ops.mmctx.local_aggregation, (*inputs, 3, 2, 2, 'cpu')
    )


@pytest.mark.parametrize('backend', [None, *BACKENDS])
def test_compiles(backend):
    value, weight = (x.detach() for x in make(1, 4, 2, 3, 5, 6))
    compiled = torch.compile(
        local_aggregation, fullgraph=True, backend='eager'
    )
    torch.testing.assert_close(
        compiled(value, weight, 3, backend),
        local_aggregation(value, weight, 3),
    )


def test_compiled_training_takes_the_backward_operator():
    names = []

    def remember(graph, _):
        names.append({str(node.target) for node in graph.graph.nodes})
        return graph

    compiled = torch.compile(
        local_aggregation,
        fullgraph=True,
        backend=aot_autograd(fw_compiler=remember, bw_compiler=remember),
    )
    value, weight = make(1, 4, 2, 3, 5, 6)
    grads = [
        torch.autograd.grad(function(value, weight, 3).sum(), (value, weight))
        for function in (compiled, local_aggregation)
    ]
    for a, b in zip(*grads):
        torch.testing.assert_close(a, b)
    assert 'mmctx.local_aggregation.default' in names[0]
    assert 'mmctx.local_aggregation_backward.default' in names[1]


def test_inputs_are_left_alone():
    value, weight = (x.detach() for x in make(*SHAPES[0]))
    copies = value.clone(), weight.clone()
    local_aggregation(value, weight, 3, 'cpu')
    assert torch.equal(value, copies[0]) and torch.equal(weight, copies[1])


@pytest.mark.parametrize(
    'value, weight, k, error, message',
    [
        ((1, 4, 5, 5), (1, 2, 9, 5, 5), 2, ValueError, 'odd'),
        ((1, 4, 5, 5), (1, 2, 9, 5, 5), 3.0, ValueError, 'odd int'),
        ((4, 5, 5), (1, 2, 9, 5, 5), 3, ValueError, '4 dimensions'),
        ((1, 4, 5, 5), (1, 18, 5, 5), 3, ValueError, '5 dimensions'),
        ((1, 4, 5, 5), (1, 3, 9, 5, 5), 3, ValueError, 'must divide'),
        ((1, 4, 5, 5), (1, 2, 25, 5, 5), 3, ValueError, r'\(1, 2, 9, 5, 5\)'),
        ((1, 4, 5, 5), (2, 2, 9, 5, 5), 3, ValueError, r'\(1, 2, 9, 5, 5\)'),
        ((1, 4, 5, 5), (1, 2, 9, 5, 4), 3, ValueError, r'\(1, 2, 9, 5, 5\)'),
    ],
)
def test_bad_input(value, weight, k, error, message):
    with pytest.raises(error, match=message):
        local_aggregation(torch.zeros(value), torch.zeros(weight), k)


def test_bad_dtype_and_backend():
    value, weight = torch.zeros(1, 4, 5, 5), torch.zeros(1, 2, 9, 5, 5)
    with pytest.raises(TypeError, match='value must be floating'):
        local_aggregation(value.int(), weight, 3)
    with pytest.raises(ValueError, match='dilation must.*got 0'):
        local_aggregation(value, weight, 3, dilation=0)
    for heads in (0, 4, 1.0):
        with pytest.raises(ValueError, match='heads must.*the 2 weight'):
            local_aggregation(value, weight, 3, heads=heads)
    with pytest.raises(ValueError, match=r"backend.*'cuda'"):
        local_aggregation(value, weight, 3, 'cuda')
    if 'TRITON_INTERPRET' not in os.environ:
        with pytest.raises(ValueError, match=r"'triton' needs"):
            local_aggregation(value, weight, 3, 'triton')
