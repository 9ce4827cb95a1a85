import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmctx.models.layers import (
    ConvAttention,
    ConvPositionEncoding,
    ConvRelativePositionEncoding,
)
from mmctx.models.layers.conv_attention import (
    CrossScaleAttention,
    join,
    split,
)


def double(*shape):
    return torch.randn(*shape, dtype=torch.double)


def expected_attention(layer, x, token, encoding):
    """The equations, token by token, the class token in front."""
    n, c, h, w = x.shape
    heads = layer.heads[0]
    tokens = torch.cat((token, x.flatten(2).transpose(1, 2)), dim=1)
    qkv = layer.qkv(tokens).unflatten(2, (3, heads, c // heads))
    q, k, v = qkv.permute(2, 0, 3, 1, 4)  # (N, heads, L, C_h) each
    summary = k.softmax(dim=2).transpose(2, 3) @ v
    out = q @ summary / (c // heads) ** 0.5
    if encoding is not None:
        value = v[:, :, 1:].transpose(2, 3).reshape(n, c, h, w)
        query = q[:, :, 1:].transpose(2, 3).reshape(n, c, h, w)
        widths = [conv.weight.shape[0] for conv in encoding.convs]
        convolved = [
            F.conv2d(
                part, conv.weight, conv.bias,
                padding=conv.weight.shape[2] // 2, groups=len(conv.weight),
            )
            for conv, part in zip(encoding.convs, value.split(widths, 1))
        ]  # fmt: skip
        term = query * torch.cat(convolved, 1)
        term = term.reshape(n, heads, c // heads, h * w).transpose(2, 3)
        out = out + F.pad(term, (0, 0, 1, 0))  # the class token's row is 0
    out = layer.proj(out.transpose(1, 2).flatten(2))
    return out[:, 1:].transpose(1, 2).reshape(n, c, h, w), out[:, :1]


@pytest.mark.parametrize('heads', [1, 8])
@pytest.mark.parametrize('encoded', [True, False])
def test_against_the_equations(heads, encoded):
    layer = ConvAttention(24, heads).double()
    encoding = None
    if encoded:
        encoding = ConvRelativePositionEncoding(24).double()
    x, token = double(2, 24, 5, 7), double(2, 1, 24)
    expected = expected_attention(layer, x, token, encoding)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        x = x.contiguous(memory_format=memory_format)
        for a, b in zip(layer(x, token, encoding), expected):
            torch.testing.assert_close(a, b)


def test_join_and_split():
    x, token = double(2, 8, 3, 5), double(2, 1, 8)
    assert join(x, token).shape == (2, 16, 8)
    for a, b in zip(split(join(x, token), (3, 5)), (x, token)):
        assert torch.equal(a, b)
    alone, nothing = split(join(x, None), (3, 5))
    assert torch.equal(alone, x) and nothing is None


def test_attention_across_scales():
    """One source is plain attention; equal sources count each."""
    layer = CrossScaleAttention(16).double()
    encoding = ConvRelativePositionEncoding(16).double()
    x, token = double(2, 16, 3, 5), double(2, 1, 16)
    plain = ConvAttention(16).double()
    plain.load_state_dict(layer.state_dict())
    source = layer.qkv(join(x, token)).chunk(3, dim=2)
    for count in (1, 2):
        with torch.no_grad():
            plain.proj.weight.copy_(count * layer.proj.weight)
        expected = plain(x, token, encoding)
        out = layer([source] * count, (3, 5), encoding)
        for a, b in zip(out, expected):
            torch.testing.assert_close(a, b)


def test_a_class_token_has_no_relative_encoding():
    layer = ConvAttention(16)
    x, token = torch.randn(2, 16, 4, 4), torch.randn(2, 1, 16)
    plain = layer(x, token)
    encoded = layer(x, token, ConvRelativePositionEncoding(16))
    assert torch.equal(plain[1], encoded[1])
    assert not torch.allclose(plain[0], encoded[0])


def test_without_a_class_token():
    layer = ConvAttention(16).double()
    x = double(2, 16, 3, 5)
    out, token = layer(x)
    assert token is None and out.shape == x.shape
    # A class token that nothing attends to changes nothing.
    layer.qkv.bias.data.zero_()
    far = -1e4 * torch.linalg.solve(
        layer.qkv.weight[16:32], torch.ones(16, dtype=torch.double)
    )
    with_token, _ = layer(x, far.expand(2, 1, -1))
    torch.testing.assert_close(with_token, layer(x)[0])


def test_relative_encoding():
    """Heads 0-1, 2-4 and 5-7 see windows of 3, 5 and 7."""
    encoding = ConvRelativePositionEncoding(16).double()
    q, v = double(1, 16, 9, 9), torch.zeros(1, 16, 9, 9).double()
    v[:, :, 4, 4] = 1
    for conv in encoding.convs:
        nn.init.ones_(conv.weight)
        nn.init.zeros_(conv.bias)
    out = encoding(q, v)
    for channels, window in ((slice(4), 3), (slice(4, 10), 5),
                             (slice(10, 16), 7)):  # fmt: skip
        near = torch.zeros(9, 9, dtype=torch.double)
        near[4 - window // 2 : 5 + window // 2,
             4 - window // 2 : 5 + window // 2] = 1  # fmt: skip
        torch.testing.assert_close(out[:, channels], q[:, channels] * near)


def test_position_encoding_is_residual():
    encoding = ConvPositionEncoding(8).double()
    x = double(2, 8, 5, 6)
    conv = F.conv2d(x, encoding.weight, encoding.bias, padding=1, groups=8)
    torch.testing.assert_close(encoding(x), x + conv)


def test_gradients():
    layer = ConvAttention(8, 2).double()
    encoding = ConvRelativePositionEncoding(8).double()
    x = double(1, 8, 3, 4).requires_grad_()
    token = double(1, 1, 8).requires_grad_()
    torch.autograd.gradcheck(
        lambda x, token: layer(x, token, encoding), (x, token)
    )
    assert all(
        p.grad is None or p.grad.isfinite().all() for p in layer.parameters()
    )


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('autocast', [True, False])
def test_softmax_and_its_product_are_accurate(dtype, autocast):
    """66,800 tokens, each with a weight of 1.5e-5: sums of them in half
    precision would stall."""
    layer = ConvAttention(16)
    nn.init.zeros_(layer.qkv.weight[16:32])  # equal weights for all tokens
    nn.init.zeros_(layer.qkv.bias)
    x = torch.randn(1, 16, 200, 334) + 1
    token = torch.randn(1, 1, 16)
    _, k, v = layer.qkv(join(x, token)).mT.chunk(3, dim=1)
    exact = layer.summarise(k, v)
    if not autocast:
        layer, x, token = layer.to(dtype), x.to(dtype), token.to(dtype)
    with torch.autocast('cpu', dtype=dtype, enabled=autocast):
        _, k, v = layer.qkv(join(x, token)).mT.chunk(3, dim=1)
        summary = layer.summarise(k, v)
        out, _ = layer(x, token)
    assert k.dtype == dtype and summary.dtype == dtype
    assert (summary - exact).norm() / exact.norm() < 0.005
    assert out.dtype == dtype and out.isfinite().all()


@pytest.mark.parametrize(
    'build, message',
    [
        (lambda: ConvAttention(12, 8), 'multiple of num_heads, got 12'),
        (lambda: ConvAttention(12, 0), 'and 0 heads'),
        (lambda: ConvRelativePositionEncoding(12), 'multiple of num_heads'),
    ],
)
def test_bad_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()
