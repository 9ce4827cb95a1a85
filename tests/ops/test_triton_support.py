"""When kernels run, and what runs where they cannot."""

import os
import subprocess
import sys
import warnings
from functools import partial

import pytest
import torch

from mmctx.ops import (
    contextual_deform_conv,
    local_aggregation,
    triton_support,
)

pytest.importorskip('triton')

MODULES = ('local_aggregation', 'contextual_deform_conv')
FORMATS = (torch.contiguous_format, torch.channels_last)


class BrokenKernel:
    """As a kernel that the compiler refuses; counts its launches."""

    def __init__(self, name, launches):
        self.__name__, self.launches = name, launches

    def __getitem__(self, grid):
        self.launches.append(self.__name__)
        raise SyntaxError('ptxas refuses')


@pytest.fixture
def launches(monkeypatch):
    """Names of the kernels that were tried; all fail, on any device."""
    launches = []
    for module in MODULES:
        kernels = __import__(f'mmctx.ops.{module}.triton', fromlist=['triton'])
        for name, value in list(vars(kernels).items()):
            if type(value).__name__ == 'JITFunction':
                broken = BrokenKernel(name, launches)
                monkeypatch.setattr(kernels, name, broken)
    monkeypatch.setattr(triton_support, '_failed', set())
    monkeypatch.setattr(triton_support, 'refuse_triton', lambda **_: None)
    return launches


def aggregation_inputs(memory_format):
    value = torch.randn(2, 8, 5, 6).to(memory_format=memory_format)
    return value, torch.randn(2, 2, 9, 5, 6)


def contextual_inputs(memory_format, with_mask=True):
    x = torch.randn(2, 4, 5, 6).to(memory_format=memory_format)
    inputs = (
        x,
        torch.randn(2, 18, 5, 6),
        torch.randn(2, 4, 1, 3, 3),
        torch.randn(4),
    )
    return (*inputs, torch.rand(2, 9, 5, 6)) if with_mask else inputs


CASES = {
    'aggregation': (
        partial(local_aggregation, kernel_size=3),
        aggregation_inputs,
        ['_aggregate', '_aggregate'],
    ),
    'contextual': (
        partial(contextual_deform_conv, padding=1),
        contextual_inputs,
        ['_forward', '_keys', '_sampling_gradient'],
    ),
    'contextual without mask': (
        partial(contextual_deform_conv, padding=1),
        partial(contextual_inputs, with_mask=False),
        ['_forward', '_keys', '_sampling_gradient'],
    ),
}


def run(function, inputs, backend):
    """Output and all gradients."""
    inputs = [x.detach().requires_grad_() for x in inputs]
    out = function(*inputs, backend=backend)
    return [out, *torch.autograd.grad(out.cos().sum(), inputs)]


@pytest.mark.parametrize('memory_format', FORMATS)
@pytest.mark.parametrize('name', CASES)
def test_reference_replaces_a_kernel_that_fails(name, memory_format, launches):
    function, make_inputs, tried = CASES[name]
    inputs = make_inputs(memory_format)
    with pytest.warns(UserWarning, match='failed to start.*ptxas refuses'):
        results = run(function, inputs, 'triton')
    # In the kernels' layout, too, on which a compiler relies.
    layout = torch.channels_last if 'contextual' in name else memory_format
    for result in results[:2]:
        assert result.is_contiguous(memory_format=layout)
    for result, exact in zip(results, run(function, inputs, 'reference')):
        torch.testing.assert_close(result, exact)
    # Neither tried nor warned of again.
    before = list(launches)
    assert set(before) == set(tried)
    with warnings.catch_warnings(action='error'):
        run(function, inputs, 'triton')
    assert launches == before


def test_reference_replaces_a_kernel_in_compiled_code(launches):
    function, make_inputs, _ = CASES['aggregation']
    inputs = make_inputs(torch.channels_last)
    compiled = torch.compile(function, fullgraph=True, backend='aot_eager')
    with pytest.warns(UserWarning, match='failed to start'):
        results = run(compiled, inputs, 'triton')
    for result, exact in zip(results, run(function, inputs, 'reference')):
        torch.testing.assert_close(result, exact)


def test_other_errors_end_the_run(monkeypatch):
    """Out of memory is not a kernel that fails."""
    kernels = __import__('mmctx.ops.local_aggregation.triton', fromlist=['_'])

    def out_of_memory(*_):
        raise torch.OutOfMemoryError('no memory')

    monkeypatch.setattr(kernels, 'forward', out_of_memory)
    monkeypatch.setattr(triton_support, 'refuse_triton', lambda **_: None)
    inputs = aggregation_inputs(torch.contiguous_format)
    with pytest.raises(torch.OutOfMemoryError):
        local_aggregation(*inputs, 3, backend='triton')


class OnGPU:
    """What the dispatcher asks of a tensor on a GPU."""

    is_cuda, dtype = True, torch.float16


@pytest.mark.parametrize(
    'name, value, reason',
    [
        ('TRITON_VERSION', (3, 1), r'needs Triton 3\.3 .*PyTorch 2\.7.* 3\.1'),
        ('TRITON_VERSION', None, 'needs Triton, which is not installed'),
    ],
)
def test_warns_once_where_kernels_cannot_run(name, value, reason, monkeypatch):
    monkeypatch.setattr(triton_support, '_warned', False)
    monkeypatch.setattr(triton_support, name, value)
    with pytest.warns(UserWarning, match=f'fast GPU path {reason}'):
        assert triton_support.refuse_triton(x=OnGPU) is not None
    with warnings.catch_warnings(action='error'):
        assert triton_support.refuse_triton(x=OnGPU) is not None
        assert 'on a GPU' in triton_support.refuse_triton(x=torch.zeros(1))
    with pytest.raises(ValueError, match=reason):
        triton_support.check_triton(x=OnGPU)


def test_takes_what_the_installed_version_compiles(monkeypatch):
    monkeypatch.setattr(triton_support, 'ENABLED', True)
    import triton

    version = '.'.join(map(str, triton_support.TRITON_VERSION))
    assert triton.__version__.startswith(f'{version}.')
    oldest = triton_support.OLDEST_TRITON
    monkeypatch.setattr(triton_support, 'TRITON_VERSION', oldest)
    assert triton_support.refuse_triton(x=OnGPU, bias=None) is None


def test_switched_off_without_a_warning():
    script = """
import warnings
from mmctx.ops import triton_support
warnings.simplefilter('error')
class OnGPU:
    is_cuda, dtype = True, triton_support.torch.float16
print(triton_support.refuse_triton(x=OnGPU))
"""
    result = subprocess.run(
        [sys.executable, '-c', script],
        env={**os.environ, 'MMCTX_TRITON': '0'},
        capture_output=True,
        text=True,
    )
    assert result.stdout.strip() == 'is switched off by MMCTX_TRITON=0', result


def test_hands_launches_to_a_tool(monkeypatch):
    seen = []
    monkeypatch.setattr(triton_support, 'refuse_triton', lambda **_: None)
    inputs = aggregation_inputs(torch.contiguous_format)
    with triton_support.launching(lambda *launch: seen.append(launch)):
        local_aggregation(*inputs, 3, backend='triton')
        local_aggregation(*(x[:0] for x in inputs), 3, backend='triton')
        triton_support.launch(None, (3, 2), inputs[0])
    (kernel, programs, args, options), (_, grid, *_) = seen
    assert kernel.__name__ == '_aggregate' and programs > 0
    assert args[0].data_ptr() == inputs[0].data_ptr()
    assert options['KERNEL'] == 3 and grid == 6
