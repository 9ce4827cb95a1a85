import pytest
import torch
import torch.nn.functional as F

from mmctx.ops.linear import (
    MAX_WIDTH,
    MIN_ROWS,
    _is_fused,
    linear,
)


def linear_reference(x, weight, bias=None, gelu=False):
    x = F.linear(x, weight, bias)
    return F.gelu(x) if gelu else x


pytestmark = pytest.mark.usefixtures('no_gradients')


@pytest.fixture
def no_gradients():
    with torch.no_grad():
        yield


@pytest.mark.parametrize('gelu', [False, True])
@pytest.mark.parametrize('bias', [False, True])
@pytest.mark.parametrize('shape', [(MIN_ROWS, 7), (2, 15, 21, 7)])
def test_fused_against_reference(gelu, bias, shape):
    x, weight = torch.randn(shape), torch.randn(6, 7)
    bias = torch.randn(6) if bias else None
    assert _is_fused(x, weight) == torch.backends.mkldnn.is_available()
    torch.testing.assert_close(
        linear(x, weight, bias, gelu), linear_reference(x, weight, bias, gelu)
    )


def test_wide_weights_and_few_rows_are_left_to_pytorch():
    x = torch.randn(MIN_ROWS, MAX_WIDTH + 1)
    weight = torch.randn(MAX_WIDTH + 2, MAX_WIDTH + 1)
    assert not _is_fused(x, weight)
    assert not _is_fused(x[1:], weight[:1])
    torch.testing.assert_close(
        linear(x, weight, gelu=True), linear_reference(x, weight, gelu=True)
    )
