"""The Triton kernels: on a GPU where there is one, else interpreted.

Triton reads TRITON_INTERPRET when it is imported, so that one test here runs
all others in a process of their own. The interpreter takes milliseconds per
operation: maps of a few pixels.
"""

import os
from contextlib import contextmanager

import pytest
import torch

from mmctx.ops import local_aggregation
from tests.helpers.interpreter import run_interpreted

pytest.importorskip('triton')

INTERPRETED = os.environ.get('TRITON_INTERPRET') == '1'
HAS_GPU = torch.cuda.is_available()
DEVICE = 'cpu' if INTERPRETED else 'cuda'
kernels = pytest.mark.skipif(
    not (INTERPRETED or HAS_GPU), reason='needs a GPU or the interpreter'
)
on_gpu = pytest.mark.skipif(
    INTERPRETED or not HAS_GPU, reason='no GPU at hand'
)

SHAPE = (2, 4, 2, 3, 3, 5)  # n, c, g, k, h, w
LAYOUTS = ['contiguous', 'channels_last', 'mixed', 'view']
TOLERANCE = {torch.float16: 1e-3, torch.bfloat16: 1e-2, torch.float32: 1e-5}


def lay_out(x, layout):
    """A (N, C, H, W) tensor's numbers in another place in memory."""
    if layout == 'channels_last':
        return x.contiguous(memory_format=torch.channels_last)
    if layout == 'view':
        larger = torch.full((x.shape[0], x.shape[1] * 2, *x.shape[2:]), 1e4)
        larger = larger.to(x).repeat(1, 1, 2, 3)
        view = larger[:, ::2, : x.shape[2], 1 : 1 + 2 * x.shape[3] : 2]
        return view.copy_(x)
    return x.contiguous()


def make(shape, dtype=torch.float32, layout='contiguous'):
    n, c, g, k, h, w = shape
    value = torch.randn(n, c, h, w, device=DEVICE).to(dtype)
    weight = torch.randn(n, g * k * k, h, w, device=DEVICE).to(dtype)
    # A GPU's group norm turns channels_last maps into contiguous ones.
    weight_layout = 'contiguous' if layout == 'mixed' else layout
    value = lay_out(value, 'channels_last' if layout == 'mixed' else layout)
    weight = lay_out(weight, weight_layout).unflatten(1, (g, k * k))
    return value, weight


@contextmanager
def empty_tensors_hold_nan():
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def run(value, weight, k, backend, *options):
    """Output and both gradients for a fixed gradient of the output."""
    value = value.detach().requires_grad_()
    weight = weight.detach().requires_grad_()
    out = local_aggregation(value, weight, k, backend, *options)
    # Integers: the same numbers in every dtype.
    probe = torch.arange(out.numel(), device=out.device) % 5 - 2
    out.backward(probe.view(out.shape).to(out.dtype))
    return out.detach(), value.grad, weight.grad


def compare(value, weight, k, *options):
    """Kernels against the reference's float64 sums over the same values."""
    with empty_tensors_hold_nan():
        results = run(value, weight, k, 'triton', *options)
    exact = run(value.double(), weight.double(), k, 'reference', *options)
    for got, want, operand in zip(results, exact, (value, value, weight)):
        assert got.dtype == operand.dtype
        assert got.stride() == torch.empty_like(operand).stride()
        bound = TOLERANCE[got.dtype]
        torch.testing.assert_close(got.double(), want, rtol=bound, atol=bound)
    return results


@pytest.mark.skipif(INTERPRETED, reason='this is the inner process')
def test_under_the_interpreter():
    """Runs every test marked `kernels` on CPU tensors."""
    run_interpreted(__file__)


@kernels
@pytest.mark.parametrize('layout', LAYOUTS)
def test_equals_reference(layout):
    compare(*make(SHAPE, layout=layout), 3)


@kernels
@pytest.mark.parametrize(
    'shape, layout',
    [
        # One pixel, and groups that are no power of two.
        ((1, 6, 3, 3, 1, 1), 'channels_last'),
        # Eight channels to a weight, as in CoT.
        ((1, 8, 1, 3, 2, 3), 'channels_last'),
        # More than one pass takes.
        ((1, 9, 1, 3, 2, 1), 'contiguous'),
        ((1, 12, 1, 3, 2, 2), 'channels_last'),
        # Kernels larger than the map.
        ((1, 4, 4, 5, 2, 3), 'channels_last'),
        ((1, 1, 1, 7, 1, 4), 'contiguous'),
        # More pixels than a tile has.
        ((1, 2, 1, 3, 9, 7), 'channels_last'),
        ((1, 1, 1, 3, 1, 66), 'contiguous'),
    ],
)
def test_shapes(shape, layout):
    compare(*make(shape, layout=layout), shape[3])


@kernels
@pytest.mark.parametrize('layout', ['contiguous', 'channels_last'])
def test_dilation(layout):
    compare(*make((1, 4, 2, 3, 5, 4), layout=layout), 3, 2)


@kernels
@pytest.mark.parametrize('layout', ['contiguous', 'channels_last'])
def test_heads(layout):
    """Of three weight channels each, so that a block holds parts of two."""
    compare(*make((1, 12, 6, 3, 2, 3), layout=layout), 3, 1, 2)


@kernels
def test_weights_with_the_taps_outside():
    """In channels_last, the weights of a tap are then adjacent."""
    value, weight = make((2, 16, 8, 3, 2, 3), layout='channels_last')
    weight = weight.flatten(1, 2).unflatten(1, (9, 8)).transpose(1, 2)
    assert weight.stride()[1:3] == (1, 8)
    compare(value, weight, 3)


@kernels
@pytest.mark.parametrize(
    'dtype, layout',
    [(torch.float16, 'contiguous'), (torch.bfloat16, 'channels_last')],
)
def test_half_precision(dtype, layout):
    compare(*make((1, 2, 1, 3, 2, 3), dtype, layout), 3)


@kernels
def test_half_precision_accumulates_in_float32():
    """Rounded once: within half a unit in the last place of the sum."""
    # The interpreter cuts bfloat16 off instead of rounding it.
    dtype = torch.float16 if INTERPRETED else torch.bfloat16
    value, weight = make((1, 1, 1, 5, 3, 3), dtype)
    out = local_aggregation(value, weight, 5, 'triton')
    exact = local_aggregation(value.double(), weight.double(), 5, 'reference')
    bound = torch.finfo(dtype).eps / 2 * exact.abs() * 1.01 + 1e-5
    assert ((out.double() - exact).abs() <= bound).all()


@kernels
def test_mixed_dtypes_as_under_autocast():
    """Group norm returns float32 weights under a GPU's autocast."""
    value, weight = make((1, 4, 2, 3, 2, 3), layout='mixed')
    with torch.autocast(DEVICE, torch.bfloat16):
        compare(value.bfloat16(), weight, 3)


@kernels
def test_expanded_gradient_and_float64():
    value, weight = (x.double() for x in make((1, 1, 1, 3, 2, 2)))
    grads = []
    for backend in ('triton', 'reference'):
        v, w = value.clone().requires_grad_(), weight.clone().requires_grad_()
        local_aggregation(v, w, 3, backend).sum().backward()
        grads.append((v.grad, w.grad))
    for got, want in zip(*grads):
        torch.testing.assert_close(got, want)


@kernels
def test_empty_batch():
    out = run(*make((0, 2, 1, 3, 2, 2)), 3, 'triton')
    assert [x.numel() for x in out] == [0, 0, 0]


@kernels
def test_operator_registration():
    """Fake outputs have the strides of real ones."""
    value, weight = make((1, 2, 1, 3, 2, 1), layout='channels_last')
    args = value.requires_grad_(), weight.requires_grad_(), 3, 1, 1, 'triton'
    torch.library.opcheck(torch.ops.mmctx.local_aggregation, args)


@kernels
def test_compiles_without_graph_breaks():
    def function(value, weight):
        return local_aggregation(value, weight, 3, 'triton').square()

    compiled = torch.compile(
        function,
        fullgraph=True,
        backend='aot_eager' if INTERPRETED else 'inductor',
    )
    value, weight = make((1, 2, 1, 3, 2, 3), layout='channels_last')
    results = []
    for f in (function, compiled):
        v, w = value.clone().requires_grad_(), weight.clone().requires_grad_()
        f(v, w).sum().backward()
        results.append((v.grad, w.grad))
    for got, want in zip(*results):
        torch.testing.assert_close(got, want)


@on_gpu
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize(
    'shape', [(2, 64, 8, 3, 56, 56), (3, 512, 64, 3, 7, 7)]
)
def test_repeats_are_equal_to_the_bit(shape, layout, dtype):
    value, weight = make(shape, dtype, layout)
    first = compare(value, weight, 3)
    for _ in range(3):
        for a, b in zip(first, run(value, weight, 3, 'triton')):
            assert torch.equal(a, b)


@on_gpu
def test_is_the_default_on_a_gpu():
    value, weight = make(SHAPE)
    torch.testing.assert_close(
        local_aggregation(value, weight, 3),
        local_aggregation(value, weight, 3, 'triton'),
        rtol=0,
        atol=0,
    )
