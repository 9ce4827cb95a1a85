import pytest
import torch

from mmctx.ops.linear import (
    MAX_WIDTH,
    MIN_ROWS,
    _is_fused,
    linear,
    linear_reference,
)


@pytest.mark.parametrize('gelu', [False, True])
@pytest.mark.parametrize('bias', [False, True])
@pytest.mark.parametrize('shape', [(MIN_ROWS, 7), (2, 15, 21, 7)])
def test_fused_against_reference(gelu, bias, shape):
    x, weight = torch.randn(shape), torch.randn(6, 7)
    bias = torch.randn(6) if bias else None
    expected = linear_reference(x, weight, bias, gelu)
    with torch.no_grad():
        if torch.backends.mkldnn.is_available():
            assert _is_fused(x, weight)
        found = linear(x, weight, bias, gelu)
    torch.testing.assert_close(found, expected)


def test_wide_weights_are_left_to_pytorch():
    x = torch.randn(MIN_ROWS, MAX_WIDTH + 1)
    weight = torch.randn(MAX_WIDTH + 2, MAX_WIDTH + 1)
    expected = linear_reference(x, weight, gelu=True)
    with torch.no_grad():
        assert not _is_fused(x, weight)
        found = linear(x, weight, gelu=True)
    torch.testing.assert_close(found, expected)


def test_is_fused_only_in_float32_evaluation():
    x, weight = torch.randn(MIN_ROWS, 3), torch.randn(4, 3)
    assert not _is_fused(x, weight)
    with torch.no_grad():
        assert _is_fused(x, weight) == torch.backends.mkldnn.is_available()
        assert not _is_fused(x[1:], weight)
        assert not _is_fused(x.double(), weight.double())
        assert not _is_fused(x.to('meta'), weight)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            assert not _is_fused(x, weight)
            assert linear(x, weight).dtype == torch.bfloat16


def test_gradients():
    x = torch.randn(3, 4, dtype=torch.double, requires_grad=True)
    weight = torch.randn(5, 4, dtype=torch.double, requires_grad=True)
    bias = torch.randn(5, dtype=torch.double, requires_grad=True)
    torch.autograd.gradcheck(
        lambda *tensors: linear(*tensors, gelu=True), (x, weight, bias)
    )


def test_compiles_without_breaks():
    compiled = torch.compile(linear, fullgraph=True, backend='eager')
    x, weight = torch.randn(2, 3), torch.randn(4, 3)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x, weight), linear(x, weight))
