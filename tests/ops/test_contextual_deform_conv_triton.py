"""The Triton kernels: on a GPU where there is one, else interpreted.

As in ``test_local_aggregation_triton.py``, one test here runs all others in a
process of their own, on maps of a few pixels.
"""

import os
import subprocess
import sys
from contextlib import contextmanager

import pytest
import torch

from mmctx.ops import contextual_deform_conv

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
SHAPE = (2, 4, (3, 3), 3, 4, 1, 1, 1)
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
    """Inputs and geometry."""
    n, c, kernel, h, w, *geometry = shape
    geometry = dict(zip(('stride', 'padding', 'dilation'), geometry))
    stride, padding, dilation = geometry.values()
    size = [
        (s + 2 * padding - dilation * (k - 1) - 1) // stride + 1
        for s, k in zip((h, w), kernel)
    ]
    taps = kernel[0] * kernel[1]
    # Offsets and mask are parts of one prediction.
    predicted = torch.randn(n, 3 * taps, *size)
    predicted = lay_out(predicted.to(dtype).to(DEVICE), layout)
    inputs = dict(
        x=torch.randn(n, c, h, w),
        offset=spread * predicted[:, : 2 * taps],
        weight=torch.randn(n, c, 1, *kernel),
        bias=torch.randn(c) if biased else None,
        mask=predicted[:, 2 * taps :].sigmoid() if masked else None,
    )
    for name in ('x', 'weight', 'bias'):
        if inputs[name] is not None:
            inputs[name] = lay_out(inputs[name].to(DEVICE, dtype), layout)
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
        given = inputs['x' if name == 'out' else name]
        assert got.dtype == given.dtype
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
    result = subprocess.run(
        [sys.executable, '-m', 'pytest', '-q', '-p', 'no:xdist', __file__],
        env={**os.environ, 'TRITON_INTERPRET': '1'},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr
    assert ' passed' in result.stdout


@kernels
@pytest.mark.parametrize('layout', LAYOUTS)
def test_equals_reference(layout):
    compare(*make(SHAPE, layout=layout))


@kernels
@pytest.mark.parametrize('extras', ['mask', 'bias', ''])
def test_without_mask_or_bias(extras):
    compare(
        *make(
            (1, 2, (3, 3), 2, 3, 1, 1, 1),
            masked='mask' in extras,
            biased='bias' in extras,
        )
    )
