"""The Triton kernels: on a GPU where there is one, else interpreted.

As in ``test_local_aggregation_triton.py``, one test here runs all others in a
process of their own, on maps of a few pixels.
"""

import os
import sys
from contextlib import contextmanager

import pytest
import torch

from mmctx.ops import contextual_deform_conv, modulated_deform_conv
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

# n, c, kernel, h, w, stride, padding, dilation
SHAPE = (2, 4, (3, 3), 2, 3, 1, 1, 1)
LAYOUTS = ['contiguous', 'channels_last', 'view']
TOLERANCE = {torch.float16: 1e-3, torch.bfloat16: 1e-2, torch.float32: 1e-5}


def lay_out(x, layout):
    """A tensor's numbers in another place in memory."""
    if x is None or layout == 'contiguous':
        return x
    if layout == 'channels_last' and x.dim() == 4:
        return x.contiguous(memory_format=torch.channels_last)
    if layout == 'channels_last':
        return x
    # Every second number along the first axes, and not from the start.
    larger = torch.full([2 * s + 1 for s in x.shape], 1e4).to(x)
    view = larger[tuple(slice(1, None, 2) for _ in x.shape)]
    return view.copy_(x)


def make(
    shape,
    dtype=torch.float32,
    layout='contiguous',
    masked=True,
    biased=True,
    spread=1.5,
):
    """Random inputs and the geometry's keyword arguments."""
    n, c, kernel, h, w, *geometry = shape
    geometry = dict(zip(('stride', 'padding', 'dilation'), geometry))
    stride, padding, dilation = geometry.values()
    size = [
        (s + 2 * padding - dilation * (k - 1) - 1) // stride + 1
        for s, k in zip((h, w), kernel)
    ]
    taps = kernel[0] * kernel[1]
    # Offsets and mask are parts of one prediction.
    predicted = spread * torch.randn(n, 3 * taps, *size, device=DEVICE)
    predicted = lay_out(predicted.to(dtype), layout)
    inputs = dict(
        x=torch.randn(n, c, h, w, device=DEVICE).to(dtype),
        offset=predicted[:, : 2 * taps],
        weight=torch.randn(n, c, 1, *kernel, device=DEVICE).to(dtype),
        bias=torch.randn(c, device=DEVICE).to(dtype) if biased else None,
        mask=predicted[:, 2 * taps :] if masked else None,
    )
    for name in ('x', 'weight', 'bias'):
        inputs[name] = lay_out(inputs[name], layout)
    return inputs, geometry


@contextmanager
def empty_tensors_hold_nan():
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def cast(inputs, dtype=None):
    return {
        k: None if v is None else v.detach().to(dtype or v.dtype)
        for k, v in inputs.items()
    }


def run(inputs, geometry, backend):
    """Output and all gradients for a fixed gradient of the output."""
    inputs = {
        k: None if v is None else v.detach().requires_grad_()
        for k, v in inputs.items()
    }
    out = contextual_deform_conv(**inputs, **geometry, backend=backend)
    # Integers: the same numbers in every dtype.
    probe = torch.arange(out.numel(), device=out.device) % 5 - 2
    out.backward(probe.view(out.shape).to(out.dtype))
    grads = {k: v.grad for k, v in inputs.items() if v is not None}
    return {'out': out.detach(), **grads}


def compare(inputs, geometry):
    """Kernels against the reference's float64 sums over the same numbers."""
    with empty_tensors_hold_nan():
        results = run(inputs, geometry, 'triton')
    exact = run(cast(inputs, torch.float64), geometry, 'reference')
    assert results.keys() == exact.keys()
    for name, got in results.items():
        operand = inputs['x' if name == 'out' else name]
        assert got.dtype == operand.dtype
        bound = TOLERANCE[got.dtype]
        scale = max(1, exact[name].abs().max().item())
        torch.testing.assert_close(
            got.double(),
            exact[name],
            rtol=bound,
            atol=bound * scale,
            msg=lambda text, name=name: f'{name}: {text}',
        )
    assert results['out'].is_contiguous(memory_format=torch.channels_last)
    return results


@pytest.mark.skipif(INTERPRETED, reason='this is the inner process')
def test_under_the_interpreter():
    """Runs every test marked `kernels` on CPU tensors."""
    run_interpreted(__file__)


@kernels
@pytest.mark.parametrize('layout', LAYOUTS)
def test_equals_reference(layout):
    compare(*make(SHAPE, layout=layout))


@kernels
@pytest.mark.parametrize('extras', ['mask', 'bias', ''])
def test_without_mask_or_bias(extras):
    compare(
        *make(
            (1, 2, (1, 2), 2, 3, 1, 1, 1),
            masked='mask' in extras,
            biased='bias' in extras,
        )
    )


@kernels
@pytest.mark.parametrize(
    'shape, layout',
    [
        # Stride 2, and channels that are no power of two.
        ((1, 6, (3, 3), 5, 4, 2, 1, 1), 'channels_last'),
        # Sides of kernel, padding and dilation.
        ((1, 3, (3, 2), 2, 3, 1, 2, 2), 'contiguous'),
        ((1, 2, (2, 3), 3, 4, 1, 0, 1), 'channels_last'),
        # One pixel, one tap.
        ((1, 1, (1, 1), 1, 1, 1, 0, 1), 'view'),
        # Two passes over the channels.
        ((1, 20, (1, 2), 2, 3, 1, 1, 1), 'channels_last'),
        # The kernel of Contextual ConvNeXt, larger than the map.
        ((1, 4, (7, 7), 2, 3, 1, 3, 1), 'channels_last'),
    ],
)
def test_shapes(shape, layout):
    compare(*make(shape, layout=layout))


@kernels
@pytest.mark.parametrize('most_blocks', [1, 3])
def test_more_than_one_tile_and_chunk(most_blocks, monkeypatch):
    """As on large maps, by smaller tiles."""
    from mmctx.ops.contextual_deform_conv import triton

    sizes = dict(BLOCK=4, BLOCK_CHANNELS=2, CHUNK=4)
    sizes.update(MOST_BLOCKS=most_blocks, MOST_CORNER_BLOCKS=most_blocks)
    for name, value in sizes.items():
        monkeypatch.setattr(triton, name, value)
    compare(*make((2, 5, (1, 2), 2, 4, 1, 0, 1)))


@kernels
def test_whole_pixels_as_at_the_start_of_training():
    """Positions exactly on the border, where derivatives jump."""
    compare(*make((1, 2, (3, 3), 2, 3, 1, 1, 1), spread=0))


@kernels
def test_offsets_far_outside():
    inputs, geometry = make((1, 2, (2, 2), 3, 3, 1, 1, 1), spread=3)
    inputs['offset'] = inputs['offset'].clone()
    inputs['offset'][0, 3, 1] = 1e20
    inputs['offset'][0, 4, :, 1] = -1e20
    compare(inputs, geometry)


@kernels
@pytest.mark.parametrize('axis', [0, 1])
@pytest.mark.parametrize('other', [0.25, -9, 9])
def test_nan_offset_spoils_only_what_it_touches(axis, other):
    """Also where the other axis is clamped to a border."""
    inputs, geometry = make((2, 2, (2, 2), 3, 3, 1, 1, 1))
    inputs['offset'] = inputs['offset'].clone()
    inputs['offset'][0, axis, 1, 2] = float('nan')
    inputs['offset'][0, 1 - axis, 1, 2] = other
    results = run(inputs, geometry, 'triton')
    spoilt = results['out'].isnan()
    assert spoilt[0, :, 1, 2].all() and spoilt.sum() == 2
    exact = run(inputs, geometry, 'reference')
    for name, got in results.items():
        assert torch.equal(got.isnan(), exact[name].isnan()), name


@kernels
@pytest.mark.parametrize(
    'dtype, layout',
    [(torch.float16, 'contiguous'), (torch.bfloat16, 'channels_last')],
)
def test_half_precision(dtype, layout):
    compare(*make((1, 2, (2, 2), 2, 2, 1, 1, 1), dtype, layout))


@kernels
def test_half_precision_accumulates_in_float32():
    """Rounded once: within half a unit in the last place of the sum."""
    # The interpreter cuts bfloat16 off instead of rounding it.
    dtype = torch.float16 if INTERPRETED else torch.bfloat16
    inputs, geometry = make((1, 2, (5, 5), 3, 3, 1, 2, 1), dtype)
    out = contextual_deform_conv(**inputs, **geometry, backend='triton')
    exact = contextual_deform_conv(
        **cast(inputs, torch.float64), **geometry, backend='reference'
    )
    bound = torch.finfo(dtype).eps / 2 * exact.abs() * 1.01 + 1e-5
    assert ((out.double() - exact).abs() <= bound).all()


@kernels
def test_mixed_dtypes_as_under_autocast():
    inputs, geometry = make((1, 2, (2, 2), 2, 2, 1, 1, 1))
    for name in ('x', 'weight'):
        inputs[name] = inputs[name].to(torch.bfloat16)
    with torch.autocast(DEVICE, torch.bfloat16):
        compare(inputs, geometry)


@kernels
def test_expanded_gradient_and_float64():
    inputs, geometry = make((1, 2, (2, 2), 2, 3, 1, 1, 1), torch.float64)
    grads = []
    for backend in ('triton', 'reference'):
        leaves = {k: v.clone().requires_grad_() for k, v in inputs.items()}
        out = contextual_deform_conv(**leaves, **geometry, backend=backend)
        out.sum().backward()
        grads.append([v.grad for v in leaves.values()])
    for got, want in zip(*grads):
        torch.testing.assert_close(got, want)


@kernels
@pytest.mark.parametrize(
    'leaf_name', ['x', 'offset', 'weight', 'bias', 'mask']
)
def test_one_gradient_at_a_time(leaf_name):
    inputs, geometry = make((1, 1, (1, 2), 2, 2, 1, 1, 1))
    everything = run(inputs, geometry, 'triton')
    leaves = {
        k: v.detach().requires_grad_(k == leaf_name) for k, v in inputs.items()
    }
    out = contextual_deform_conv(**leaves, **geometry, backend='triton')
    probe = torch.arange(out.numel(), device=out.device) % 5 - 2
    out.backward(probe.view(out.shape).to(out.dtype))
    for name, leaf in leaves.items():
        if name == leaf_name:
            assert torch.equal(leaf.grad, everything[name])
        else:
            assert leaf.grad is None


@kernels
def test_gradients_of_gradients():
    """Those of the reference implementation."""
    inputs, geometry = make((1, 2, (1, 2), 2, 3, 1, 1, 1), torch.float64)
    results = []
    for backend in ('triton', 'reference'):
        leaves = {k: v.clone().requires_grad_() for k, v in inputs.items()}
        out = contextual_deform_conv(**leaves, **geometry, backend=backend)
        grads = torch.autograd.grad(
            out.sin().sum(), [*leaves.values()], create_graph=True
        )
        sum(g.square().sum() for g in grads).backward()
        results.append([v.grad for v in leaves.values()])
    for got, expected in zip(*results):
        torch.testing.assert_close(got, expected)


@kernels
@pytest.mark.parametrize('masked', [True, False])
def test_samples_for_shared_kernels(masked, monkeypatch):
    """Dense kernels: the kernels sample, PyTorch multiplies."""
    module = sys.modules['mmctx.ops.contextual_deform_conv']
    monkeypatch.setattr(module, '_choose_backend', lambda *_, **__: 'triton')
    inputs, geometry = make((2, 2, (2, 3), 4, 3, 2, 1, 1), masked=masked)
    inputs['weight'] = torch.randn(3, 2, 2, 3, device=DEVICE)
    inputs['delta'] = torch.randn(2, 1, 2, 2, 3, device=DEVICE)
    inputs['bias'] = torch.randn(3, device=DEVICE)
    results = []
    for backend, dtype in ('sampled', None), ('per_image', torch.float64):
        leaves = cast(inputs, dtype)
        for leaf in filter(lambda v: v is not None, leaves.values()):
            leaf.requires_grad_()
        if backend == 'per_image':
            monkeypatch.undo()
        out = modulated_deform_conv(**leaves, **geometry, backend=backend)
        with empty_tensors_hold_nan():
            out.sin().sum().backward()
        grads = [v.grad for v in leaves.values() if v is not None]
        results.append([out, *grads])
    for got, exact in zip(*results):
        torch.testing.assert_close(got.double(), exact, rtol=1e-4, atol=1e-4)


@kernels
def test_empty_batch():
    results = run(*make((0, 2, (3, 3), 2, 2, 1, 1, 1)), 'triton')
    sizes = {name: x.numel() for name, x in results.items()}
    assert sizes == dict(out=0, x=0, offset=0, weight=0, bias=2, mask=0)
    assert results['bias'].tolist() == [0, 0]


@kernels
@pytest.mark.parametrize('masked', [True, False])
def test_operator_registration(masked):
    """Fake outputs have the strides of real ones."""
    inputs, _ = make((1, 2, (1, 2), 2, 2, 1, 1, 1), masked=masked)
    inputs = [
        None if v is None else v.detach().requires_grad_()
        for v in inputs.values()
    ]
    torch.library.opcheck(
        torch.ops.mmctx.contextual_depthwise_conv,
        (*inputs, [1, 1, 1, 1, 1, 1]),
    )


@kernels
def test_compiles_without_graph_breaks():
    def function(kwargs):
        return contextual_deform_conv(**kwargs, backend='triton').square()

    compiled = torch.compile(
        function,
        fullgraph=True,
        backend='aot_eager' if INTERPRETED else 'inductor',
    )
    inputs, geometry = make((1, 2, (1, 2), 2, 2, 1, 1, 1))
    results = []
    for f in (function, compiled):
        leaves = {k: v.clone().requires_grad_() for k, v in inputs.items()}
        f({**leaves, **geometry}).sum().backward()
        results.append([v.grad for v in leaves.values()])
    for got, want in zip(*results):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize(
    'shape, message',
    [
        ((2, 6, 1, 3, 3), r'weight must.*\(N, 3, 1, KH, KW\)'),
        ((2, 3, 1, 3, 3), 'needs tensors on a GPU.*TRITON_INTERPRET=1'),
    ],
)
@pytest.mark.skipif(INTERPRETED, reason='interpreted kernels run on a CPU')
def test_where_the_kernels_cannot_run(shape, message):
    inputs = torch.zeros(2, 3, 4, 4), torch.zeros(2, 18, 4, 4)
    with pytest.raises(ValueError, match=message):
        contextual_deform_conv(
            *inputs, torch.zeros(shape), padding=1, backend='triton'
        )


@on_gpu
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('channels, side', [(192, 28), (768, 7)])
def test_repeats_are_equal_to_the_bit(channels, side, layout, dtype):
    shape = 2, channels, (7, 7), side, side, 1, 3, 1
    inputs, geometry = make(shape, dtype, layout)
    first = compare(inputs, geometry)
    for _ in range(3):
        again = run(inputs, geometry, 'triton')
        for name, x in first.items():
            assert torch.equal(x, again[name]), name


@on_gpu
def test_is_the_default_on_a_gpu():
    inputs, geometry = make(SHAPE)
    torch.testing.assert_close(
        contextual_deform_conv(**inputs, **geometry),
        contextual_deform_conv(**inputs, **geometry, backend='triton'),
        rtol=0,
        atol=0,
    )
