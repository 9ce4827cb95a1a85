import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from mmctx.models.layers import ContextAggregation
from mmctx.models.layers.context_aggregation import (
    DYNAMIC,
    TableAffinity,
)

SIZE = (4, 6)
#: Options of every static affinity, for 16 channels.
STATICS = {
    'conv': dict(static='conv', kernel_size=3),
    'shared conv': dict(static='conv', static_heads=4, kernel_size=5),
    'mlp': dict(static='mlp', size=SIZE),
    'mlp of 4 heads': dict(static='mlp', static_heads=4, size=SIZE),
    'mlp_lr': dict(static='mlp_lr', size=SIZE, rank=5),
    'mlp_lr of 4 heads': dict(
        static='mlp_lr', static_heads=4, size=SIZE, rank=3
    ),
    'dense_conv': dict(static='dense_conv', kernel_size=3),
    'grouped conv': dict(static='dense_conv', static_heads=4, kernel_size=3),
    'none': dict(static='none'),
}
#: Those that work on every channel apart.
AFFINITIES = ['conv', 'shared conv', *(k for k in STATICS if 'mlp' in k)]


every = pytest.mark.parametrize(
    'static, dynamic',
    [
        (static, dynamic)
        for static in sorted(STATICS)
        for dynamic in DYNAMIC
        if not static == dynamic == 'none'
    ],
)


def double(*shape):
    return torch.randn(*shape, dtype=torch.double)


def build(static='conv', **options):
    return ContextAggregation(16, 4, **{**STATICS[static], **options}).double()


def rows(x):
    """(N, C, H, W) to (N, H * W, C)."""
    return x.flatten(2).transpose(1, 2)


def check_same_gradients(layer, expected, pairs, x):
    """Two functions of x agree, and so do the gradients of parameters."""
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    outs = [f(i) for f, i in zip((layer, expected), inputs)]
    torch.testing.assert_close(*outs)
    probe = torch.randn_like(outs[0])
    for out in outs:
        (out * probe).sum().backward()
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours.grad, theirs.grad.reshape(ours.shape))


@pytest.mark.parametrize('static', ['none', 'conv'])
def test_dynamic_alone_is_multi_head_attention(static):
    """alpha = 1, beta = 0: a transformer's attention."""
    layer = build(static, mixing='scalars')
    if static == 'conv':
        layer.mixing_weight.data = torch.tensor([1.0, 0.0]).double()
    else:
        assert layer.static is None
    theirs = nn.MultiheadAttention(16, 4, batch_first=True).double()
    pairs = [
        (layer.project_in.weight, theirs.in_proj_weight),
        (layer.project_in.bias, theirs.in_proj_bias),
        (layer.project_out.weight, theirs.out_proj.weight),
        (layer.project_out.bias, theirs.out_proj.bias),
    ]
    for ours, other in pairs:
        other.data = ours.detach().clone().view(other.shape)

    def attention(x):
        tokens = rows(x)
        out = theirs(tokens, tokens, tokens)[0]
        return out.transpose(1, 2).reshape(x.shape)

    check_same_gradients(layer, attention, pairs, double(2, 16, 5, 7))


@pytest.mark.parametrize('dynamic', DYNAMIC)
@pytest.mark.parametrize('heads', [16, 4])
def test_static_alone_is_a_depthwise_convolution(dynamic, heads):
    """alpha = 0, beta = 1, a head per channel, or per four of them."""
    layer = build(dynamic=dynamic, mixing='scalars', static_heads=heads)
    if dynamic == 'attention':
        layer.mixing_weight.data = torch.tensor([0.0, 1.0]).double()
    else:
        assert layer.project_in.out_channels == 16
    project_in, conv, project_out = theirs = nn.Sequential(
        nn.Conv2d(16, 16, 1),
        nn.Conv2d(16, 16, 3, padding=1, groups=16),
        nn.Conv2d(16, 16, 1),
    ).double()
    project_in.weight.data = layer.project_in.weight[-16:].detach().clone()
    project_in.bias.data = layer.project_in.bias[-16:].detach().clone()
    project_out.load_state_dict(layer.project_out.state_dict())
    sharers = 16 // heads
    conv.weight.data = layer.static.weight.detach().repeat_interleave(
        sharers, 0
    )
    conv.bias.data = layer.static.bias.detach().repeat_interleave(sharers)
    pairs = [
        (layer.project_out.weight, project_out.weight),
        (layer.project_out.bias, project_out.bias),
    ]
    check_same_gradients(layer, theirs, pairs, double(2, 16, 5, 7))
    torch.testing.assert_close(
        layer.project_in.weight.grad[-16:], project_in.weight.grad
    )
    torch.testing.assert_close(
        layer.static.weight.grad,
        conv.weight.grad.unflatten(0, (heads, sharers)).sum(1),
    )


def static_matrices(layer, size):
    """A_c of every channel, (C, N, N), read off unit impulses."""
    n = size[0] * size[1]
    impulses = torch.eye(n, dtype=torch.double).view(n, 1, *size)
    out = layer.static(impulses.expand(-1, 16, -1, -1))
    return out.flatten(2).permute(1, 2, 0)


def by_equation(layer, x, weights):
    """Eq. 7 with matrices over all pairs of pixels."""
    alpha, beta = weights
    n, _, h, w = x.shape
    projected = rows(layer.project_in(x)).unflatten(2, (-1, 16))
    v = projected[:, :, -1]
    affinity = torch.zeros(n, 16, h * w, h * w, dtype=torch.double)
    if alpha:
        q, k = (
            projected[:, :, i].unflatten(2, (4, 4)).transpose(1, 2)
            for i in (0, 1)
        )
        scores = (q @ k.transpose(2, 3) / 4**0.5).softmax(3)
        affinity += alpha * scores.repeat_interleave(4, 1)
    if beta:
        affinity += beta * static_matrices(layer, (h, w))
    out = torch.einsum('ncij,njc->nci', affinity, v)
    return layer.project_out(out.view(x.shape))


@pytest.mark.parametrize('static', AFFINITIES)
@pytest.mark.parametrize(
    'dynamic, mixing, parameter, weights',
    [
        ('none', 'sigmoid', None, (0, 1)),
        ('attention', 'sigmoid', [math.log(3)], (0.75, 0.25)),
        ('attention', 'scalars', [1.5, -0.5], (1.5, -0.5)),
    ],
)  # fmt: skip
def test_against_the_equation(static, dynamic, mixing, parameter, weights):
    layer = build(static, dynamic=dynamic, mixing=mixing)
    if parameter:
        layer.mixing_weight.data = torch.tensor(parameter).double()
    else:
        assert layer.mixing_weight is None
    if hasattr(layer.static, 'bias'):
        layer.static.bias.data.zero_()
    x = double(2, 16, *SIZE)
    torch.testing.assert_close(layer(x), by_equation(layer, x, weights))


def test_tables_are_what_mlps_multiply_with():
    """Eq. 6; heads take consecutive channels; low rank is a product."""
    v = double(2, 16, *SIZE)
    full = TableAffinity(2, SIZE).double()
    low = TableAffinity(2, SIZE, rank=3).double()
    right, left = low.factors
    assert right.shape == (2, 3, 24) and left.shape == (2, 24, 3)
    for layer, tables in ((full, full.factors[0]), (low, left @ right)):
        parts = [t @ rows(part) for t, part in zip(tables, v.split(8, 1))]
        expected = torch.cat(parts, 2).transpose(1, 2).reshape(v.shape)
        torch.testing.assert_close(layer(v), expected)


@pytest.mark.parametrize('size', [(1, 1), (9, 7), (5, 31), (25, 42)])
def test_tables_at_other_sizes(size):
    """Rows keep their sum; what the identity does stays about the same."""
    layer = TableAffinity(1, (8, 12)).double()
    table = layer.factors[0].data
    table.copy_(table.softmax(2))
    ones = torch.ones(1, 3, *size, dtype=torch.double)
    torch.testing.assert_close(layer(ones), ones)
    table.copy_(torch.eye(96))
    y, x = (torch.linspace(0, 1, s, dtype=torch.double) for s in size)
    smooth = (y.view(-1, 1) + x).expand(1, 1, -1, -1)
    assert (layer(smooth) - smooth).abs().max() < 0.15


@pytest.mark.parametrize('size', [(1, 1), (3, 31), (8, 12), (25, 5)])
def test_tables_are_resampled_as_pytorch_does(size):
    layer = TableAffinity(1, (8, 12)).double()
    layer.factors[0].data.copy_(torch.eye(96))
    x = double(2, 3, *size)
    expected = x
    for target in ((8, 12), size):
        expected = F.interpolate(
            expected, target, mode='bilinear', antialias=True
        )
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-6)


@every
def test_every_combination_at_any_size(static, dynamic):
    layer = ContextAggregation(16, 4, dynamic=dynamic, **STATICS[static])
    for size in (SIZE, (1, 1), (7, 7), (5, 19)):
        out = layer(torch.randn(2, 16, *size))
        assert out.shape == (2, 16, *size) and out.isfinite().all()
    out.square().sum().backward()
    for key, parameter in layer.named_parameters():
        assert parameter.grad.isfinite().all(), key


@every
def test_every_module_is_called(static, dynamic):
    """Empty batches, too; what modules returned stays."""
    options = dict(STATICS[static], norm=nn.BatchNorm2d(16))
    layer = ContextAggregation(16, 4, dynamic=dynamic, **options).eval()
    silent, seen = set(), []
    for key, module in layer.named_children():
        silent.add(key)

        def save(module, inputs, output, *, key=key):
            silent.discard(key)
            seen.extend((t, t.clone()) for t in (*inputs, output))

        module.register_forward_hook(save)
    with torch.no_grad():
        layer(torch.randn(2, 16, 5, 7))
    assert not silent
    assert all(torch.equal(now, then) for now, then in seen)
    for size in (SIZE, (3, 2)):
        assert layer(torch.randn(0, 16, *size)).shape == (0, 16, *size)


@every
def test_derivatives(static, dynamic):
    """Of the input: first, forward-mode and second ones."""
    layer = build(static, dynamic=dynamic)
    x = double(1, 16, 2, 2).requires_grad_()
    options = dict(fast_mode=True, raise_exception=True)
    torch.autograd.gradcheck(layer, x, check_forward_ad=True, **options)
    torch.autograd.gradgradcheck(layer, x, **options)


@pytest.mark.parametrize('static', sorted(STATICS))
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast(static, dtype):
    layer = ContextAggregation(16, 4, **STATICS[static])
    x = torch.randn(2, 16, 7, 9)
    exact = layer(x)
    with torch.autocast('cpu', dtype=dtype):
        out = layer(x)
    assert (out - exact).norm() / exact.norm() < 0.05
    out.float().sum().backward()


@pytest.mark.parametrize('dynamic', DYNAMIC)
@pytest.mark.parametrize('train', [False, True])
def test_norm_comes_first(dynamic, train):
    norm = nn.BatchNorm2d(16).double()
    norm.running_var.uniform_(0.5, 2)
    layer = build(dynamic=dynamic, norm=norm).train(train)
    x = double(3, 16, 5, 7)
    out = layer(x)
    layer.norm = None
    torch.testing.assert_close(out, layer(norm(x)))


class LargestTensor(TorchDispatchMode):
    """Number of elements of the largest result of any operator."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out


def test_no_affinity_matrix_is_held():
    layer = ContextAggregation(16, 4).eval()
    x = torch.randn(1, 16, 30, 40)
    pairs = 1200 * 1200
    with torch.no_grad(), LargestTensor() as largest:
        layer(x)
    assert largest.numel <= 3 * x.numel() < pairs / 20
    whole = sdpa_kernel(SDPBackend.MATH)
    with torch.no_grad(), whole, LargestTensor() as largest:
        layer(x)
    assert largest.numel >= pairs, 'or this test sees nothing'


def test_starts_as_released():
    layer = ContextAggregation(16, 4)
    assert torch.equal(layer.mixing_weight, torch.zeros(1))
    halves = ContextAggregation(16, 4, mixing='scalars')
    halves.load_state_dict(
        {**layer.state_dict(), 'mixing_weight': halves.mixing_weight}
    )
    x = torch.randn(1, 16, 5, 5)
    torch.testing.assert_close(halves(x), layer(x))


def test_takes_any_memory_format():
    layer = ContextAggregation(16, 4)
    x = torch.randn(2, 16, 5, 12)
    expected = layer(x)
    last = layer(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(last, expected)
    assert expected.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(layer(x.mT.contiguous().mT), expected)
    strided = torch.stack((x, x), -1).flatten(3)[..., ::2]
    torch.testing.assert_close(layer(strided), expected)


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(dynamic='sa'), "dynamic must be one of.*got 'sa'"),
        (dict(static='depthwise'), "static must be one of.*'depthwise'"),
        (dict(mixing='sum'), "mixing must be one of.*got 'sum'"),
        (dict(mixing=(1, 0)), r'mixing must be one of.*got \(1, 0\)'),
        (dict(dynamic='none', static='none'), "got 'none' for both"),
        (dict(num_heads=5), 'num_heads must divide the 16 channels, got 5'),
        (dict(static_heads=0), 'static_heads must divide.*got 0'),
        (dict(kernel_size=4), 'odd int, got 4'),
        (dict(static='mlp'), 'needs the size of the feature map'),
        (dict(static='mlp_lr', size=(4, 4)), 'rank=None'),
        (dict(static='mlp', size=(4, 4), rank=2), 'rank=2'),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        ContextAggregation(16, **options)
