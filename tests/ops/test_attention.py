"""Attention, with derivatives that PyTorch's fused kernels lack."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.attention import SDPBackend, sdpa_kernel

from mmctx.ops import attention, reference
from mmctx.ops.attention import attention_reference

CASES = {
    'itself': (((2, 2, 3, 2), (2, 2, 3, 2), (2, 2, 3, 2)), False),
    'other tokens': (((1, 2, 3, 2), (1, 2, 4, 2), (1, 2, 4, 3)), False),
    'bias': (((2, 2, 3, 2), (2, 2, 3, 2), (2, 2, 3, 2)), True),
}
cases = pytest.mark.parametrize('case', CASES)


def inputs_of(case, dtype=torch.double):
    torch.manual_seed(0)
    shapes, has_bias = CASES[case]
    shapes = (*shapes, (1, 2, 3, 3)) if has_bias else shapes
    return [torch.randn(s, dtype=dtype, requires_grad=True) for s in shapes]


@cases
def test_against_the_reference(case):
    inputs = inputs_of(case)
    out, expected = attention(*inputs), attention_reference(*inputs)
    torch.testing.assert_close(out, expected)
    probe = torch.randn_like(out)
    for a, b in zip(
        *(torch.autograd.grad(o, inputs, probe) for o in (out, expected))
    ):
        torch.testing.assert_close(a, b)
    with reference():
        assert torch.equal(attention(*inputs), expected)


@cases
def test_derivatives(case):
    inputs = inputs_of(case)
    gradcheck(attention, inputs, check_forward_ad=True)
    gradgradcheck(attention, inputs)


def test_second_derivatives_by_the_values_alone():
    q, k, v = inputs_of('itself')
    gradgradcheck(lambda v: attention(q.detach(), k.detach(), v**2), v)


def operators(function):
    with torch.profiler.profile() as profile:
        function()
    return {event.key for event in profile.key_averages()}


def test_training_runs_the_fused_kernels():
    """Once differentiated, there and back, the weights are not held."""
    inputs = inputs_of('itself', torch.float32)
    names = operators(lambda: attention(*inputs).sum().backward())
    assert 'aten::_scaled_dot_product_flash_attention_for_cpu' in names
    assert not any('softmax' in name for name in names)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    inputs = inputs_of('bias', torch.float32)
    exact = attention(*inputs)
    with torch.autocast('cpu', dtype=dtype):
        out = attention(*inputs)
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), exact, rtol=0.05, atol=0.05)
    grads = torch.autograd.grad(out.sum(), inputs, create_graph=True)
    second = torch.autograd.grad(sum(g.sum() for g in grads), inputs)
    assert all(g.isfinite().all() for g in second)


def test_no_tokens():
    q, k, v = inputs_of('itself')
    assert attention(q[:0], k[:0], v[:0]).shape == (0, 2, 3, 2)


def test_users_choose_the_kernel():
    inputs = inputs_of('itself')
    with sdpa_kernel(SDPBackend.MATH):
        names = operators(lambda: attention(*inputs))
    assert any('softmax' in name for name in names)


def test_compiles_to_the_fused_operator():
    graphs = []

    def remember(graph, _):
        graphs.append(graph.graph)
        return graph

    torch._dynamo.reset()
    inputs = inputs_of('bias')
    compiled = torch.compile(attention, fullgraph=True, backend=remember)
    torch.testing.assert_close(compiled(*inputs), attention(*inputs))
    names = [str(node.target) for node in graphs[0].nodes]
    assert any('scaled_dot_product_attention' in name for name in names)


def test_dropout():
    """Each weight is dropped, or scaled: the mean over draws is the output."""
    torch.manual_seed(0)
    q, k, v = inputs_of('itself', torch.float32)
    many = [t[:1].expand(2000, -1, -1, -1) for t in (q, k, v)]
    draws = attention(*many, drop_rate=0.5)
    torch.testing.assert_close(
        draws.mean(0), attention(q, k, v)[0], rtol=0.1, atol=0.1
    )
    assert draws.std(0).min() > 0.01
