"""The residual MLP as a kernel: on a GPU where there is one, else interpreted.

As in test_local_aggregation_triton.py, one test here runs all others in a
process of their own.
"""

import copy
import os

import pytest
import torch
from torch import nn

from mmctx.models.layers.mlp import ConvMLP, TokenMLP
from mmctx.models.layers.norms import HalfLayerNorm
from mmctx.ops import add_mlp, reference
from mmctx.ops.add_mlp import gpu
from mmctx.ops.triton_support import KernelError
from tests.helpers.interpreter import run_interpreted

pytest.importorskip('triton')

INTERPRETED = os.environ.get('TRITON_INTERPRET') == '1'
HAS_GPU = torch.cuda.is_available()
DEVICE = 'cuda' if HAS_GPU and not INTERPRETED else 'cpu'
kernels = pytest.mark.skipif(
    not (INTERPRETED or HAS_GPU), reason='needs a GPU or the interpreter'
)
#: The interpreter multiplies the bits of bfloat16 as if they were integers.
DTYPES = [torch.float16] if INTERPRETED else [torch.float16, torch.bfloat16]


@pytest.mark.skipif(INTERPRETED, reason='this is the inner process')
def test_under_the_interpreter():
    """Runs every test marked `kernels` on CPU tensors."""
    run_interpreted(__file__)


@pytest.fixture(autouse=True)
def fused(monkeypatch):
    """Lets a few rows, on a CPU, pass for many on a GPU; counts kernels."""
    torch.manual_seed(0)
    from mmctx.ops.add_mlp import triton

    calls, original = [], triton.add_mlp
    monkeypatch.setattr(gpu, 'MIN_ROWS', 0)
    monkeypatch.setattr(gpu, 'refuse_triton', lambda **tensors: None)
    monkeypatch.setattr(
        triton, 'add_mlp', lambda *args: calls.append(1) or original(*args)
    )
    return calls


def random(module):
    """In evaluation, with parameters and statistics of unit scale."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            scale = tensor[0].numel() ** -0.5 if tensor.dim() > 1 else 1
            nn.init.normal_(tensor, std=scale)
    for name, buffer in module.named_buffers():
        if name.endswith('var'):
            buffer.uniform_(0.5, 2)
    return module.eval().to(DEVICE)


def tokens(channels, hidden, norm=nn.LayerNorm):
    x = torch.randn(2, 3, 5, channels, device=DEVICE)
    norm = norm and random(norm(channels, eps=1e-6))
    return x, random(TokenMLP(channels, hidden)), norm


def feature_map(channels, hidden):
    x = torch.randn(2, channels, 3, 7, device=DEVICE)
    mlp = random(ConvMLP(channels, hidden, dict(type='BN')))
    return x.to(memory_format=torch.channels_last), mlp


CASES = {
    'layer norm': lambda: tokens(24, 40),
    'half layer norm': lambda: tokens(8, 16, HalfLayerNorm),
    'no norm': lambda: tokens(72, 33, None),
    'wide': lambda: tokens(200, 24),
    'batch norm': lambda: feature_map(72, 100),
}


def double(x):
    return copy.deepcopy(x).double()


def compare(calls, dtype, *args):
    """The kernel with float64, as closely as the layers under autocast."""
    with torch.no_grad(), torch.autocast(DEVICE, dtype):
        out = add_mlp(*args)
        assert calls.pop() and not calls
        with reference():
            layers = add_mlp(*args)
    with torch.no_grad(), reference():
        exact = add_mlp(*(None if a is None else double(a) for a in args))
    assert out.shape == layers.shape and out.stride() == layers.stride()
    assert out.dtype == layers.dtype
    error = (out - exact).norm()
    assert error <= 1.2 * (layers - exact).norm()
    assert error <= 4 * torch.finfo(dtype).eps * exact.norm()
    return out


@kernels
@pytest.mark.parametrize('stream', ['float32', 'half'])
@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('case', CASES)
def test_is_as_exact_as_the_layers(case, dtype, stream, fused):
    x, *args = CASES[case]()
    if stream == 'half':
        x = x.to(dtype)
    compare(fused, dtype, x, *args)


@kernels
def test_a_branch_and_a_scale_of_their_own(fused):
    x, mlp, norm = tokens(24, 40)
    branch = torch.randn_like(x).half()
    scale = torch.randn(24, device=DEVICE)
    out = compare(fused, torch.float16, x.half(), mlp, norm, branch, scale)
    assert out.dtype == torch.float32


@kernels
def test_rows_beyond_a_program_and_repeats(fused):
    x, mlp, norm = tokens(8, 16)
    x = torch.randn(3, 43, 1, 8, device=DEVICE)
    before = x.clone()
    out = compare(fused, torch.float16, x, mlp, norm)
    again = compare(fused, torch.float16, x, mlp, norm)
    assert torch.equal(out, again) and torch.equal(x, before)
    empty = compare(fused, torch.float16, x[:0], mlp, norm)
    assert empty.numel() == 0


@kernels
def test_layers_without_a_bias(fused):
    x, mlp, norm = tokens(24, 40)
    mlp.fc1.bias = mlp.fc2.bias = None
    compare(fused, torch.float16, x, mlp, norm)


def is_fused(calls, *args, dtype=torch.bfloat16, **kwargs):
    """Whether the kernel would run; it need not be there."""
    with torch.autocast(DEVICE, dtype, enabled=dtype is not None):
        return gpu.refuse(*args, **kwargs) is None


@pytest.mark.parametrize('case', CASES)
def test_takes_plain_layers_in_inference(case, fused):
    x, *args = CASES[case]()
    assert not is_fused(fused, x, *args)
    with torch.no_grad():
        assert is_fused(fused, x, *args)
        assert not is_fused(fused, x, *args, dtype=None)
        assert not is_fused(fused, x.transpose(1, 2), *args)
        with reference():
            assert not is_fused(fused, x, *args)
        args[0].fc1.register_forward_hook(lambda *args: None)
        assert not is_fused(fused, x, *args)


@torch.no_grad()
def test_leaves_what_it_cannot_take(monkeypatch, fused):
    x, mlp, norm = tokens(24, 40)
    assert not is_fused(fused, x, mlp.train(), norm)
    mlp.eval()
    assert not is_fused(fused, x, mlp, nn.LayerNorm(24, bias=False))
    assert not is_fused(fused, x, mlp, norm, x.transpose(0, 1))
    assert not is_fused(fused, *tokens(12, 16))
    assert not is_fused(fused, *tokens(328, 16))
    monkeypatch.setattr(gpu, 'MIN_ROWS', 31)
    assert not is_fused(fused, x, mlp, norm)


@torch.no_grad()
def test_layers_run_where_the_kernel_cannot_be_built(monkeypatch, fused):
    def fail(*args):
        raise KernelError

    x, mlp, norm = tokens(24, 40)
    from mmctx.ops.add_mlp import triton

    monkeypatch.setattr(triton, 'add_mlp', fail)
    with torch.autocast(DEVICE, torch.bfloat16):
        out = add_mlp(x, mlp, norm)
        with reference():
            assert torch.equal(out, add_mlp(x, mlp, norm))
