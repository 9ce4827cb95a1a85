"""The encoder against its equations, window by window."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmctx.models.layers import (
    PatchwiseTransformerEncoder,
    patch_encoder,
    position_codes,
)
from mmctx.ops.windowed import cpu

POSITIONS = patch_encoder.POSITIONS
#: Whole windows, cut ones below, beside, both; smaller than a window; a row.
SIZES = [(8, 4), (7, 8), (4, 9), (9, 10), (3, 2), (1, 13)]
PATCH = 4


def build(position='2d', map_size=8, **kwargs):
    encoder = PatchwiseTransformerEncoder(
        6, PATCH, 2, 10, position, map_size=map_size, **kwargs
    ).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.copy_(
                0.6 * torch.randn(parameter.shape, generator=generator)
            )
    return encoder


def double(*shape):
    return torch.randn(*shape, dtype=torch.double)


def code_of(encoder, y, x):
    """Position code of a token of a window (or of a map)."""
    if isinstance(encoder.position, position_codes.PositionCode1d):
        return encoder.position.table[y * PATCH + x]
    return torch.cat(
        (encoder.position.rows[0, y, 0], encoder.position.columns[0, 0, x])
    )


def add_codes(encoder, x):
    """To every token of a map (H, W, C)."""
    if isinstance(encoder.position, nn.Identity):
        return x
    size = x.shape[0] if encoder.codes_whole_map else PATCH
    width = x.shape[1] if encoder.codes_whole_map else PATCH
    rows = [
        torch.stack(
            [code_of(encoder, i % size, j % width) for j in range(x.shape[1])]
        )
        for i in range(x.shape[0])
    ]
    return x + torch.stack(rows)


def attend(attention, tokens, real):
    """Softmax(Q K^T) V of one window (L, C); ``real`` keys only."""
    length, channels = tokens.shape
    width = channels // attention.num_heads
    q, k, v = attention.qkv(tokens).split(channels, 1)
    out = []
    for head in range(attention.num_heads):
        part = slice(head * width, (head + 1) * width)
        logits = q[:, part] / width**0.5 @ k[:, part].t()
        if attention.window_size is not None:
            row = [
                (i // PATCH - j // PATCH + PATCH - 1) * (2 * PATCH - 1)
                + (i % PATCH - j % PATCH + PATCH - 1)
                for i in range(length)
                for j in range(length)
            ]
            bias = attention.bias_table[row, head]
            logits = logits + bias.view(length, length)
        logits = logits.masked_fill(~real, -torch.inf)
        out.append(logits.softmax(1) @ v[:, part])
    return attention.proj(torch.cat(out, 1))


def encode(encoder, tokens, real):
    def attention(t):
        return attend(encoder.attention, t, real)

    def mlp(t):
        return encoder.mlp.fc2(F.gelu(encoder.mlp.fc1(t)))

    if encoder.pre_norm:
        t = tokens + attention(encoder.norm1(tokens))
        return t + mlp(encoder.norm2(t))
    t = encoder.norm1(tokens + attention(tokens))
    return encoder.norm2(t + mlp(t))


def expected(encoder, x, padding=0.0, masked=True):
    """Pad on the right and below, encode window by window, crop."""
    channels, height, width = x.shape[1:]
    full = [-(-side // PATCH) * PATCH for side in (height, width)]
    real = torch.zeros(full, dtype=torch.bool)
    real[:height, :width] = True
    maps = []
    for image in x.permute(0, 2, 3, 1):
        if encoder.codes_whole_map:
            image = add_codes(encoder, image)
        whole = torch.full((*full, channels), padding, dtype=torch.double)
        if padding:
            whole *= torch.randn_like(whole)
        whole[:height, :width] = image
        if not encoder.codes_whole_map:
            whole = add_codes(encoder, whole)
        rows = []
        for top in range(0, full[0], PATCH):
            row = []
            for left in range(0, full[1], PATCH):
                here = (slice(top, top + PATCH), slice(left, left + PATCH))
                keys = real[here].flatten() | (not masked)
                tokens = encode(encoder, whole[here].flatten(0, 1), keys)
                row.append(tokens.view(PATCH, PATCH, channels))
            rows.append(torch.cat(row, 1))
        maps.append(torch.cat(rows)[:height, :width])
    return torch.stack(maps).permute(0, 3, 1, 2)


def gradients(out, encoder, x):
    probe = torch.linspace(-1, 1, out.numel(), dtype=torch.double)
    return torch.autograd.grad(
        (out * probe.view_as(out)).sum(), (x, *encoder.parameters())
    )


@pytest.mark.parametrize('pre_norm', [False, True])
@pytest.mark.parametrize('position', POSITIONS)
@pytest.mark.parametrize('size', SIZES)
def test_against_the_equations(size, position, pre_norm):
    """Output and gradients; whatever the padding holds, it is masked."""
    encoder = build(position, pre_norm=pre_norm, qkv_bias=not pre_norm)
    if position == '2d_image':  # tables of the map's own size
        encoder.position.rows = nn.Parameter(double(1, size[0], 1, 3))
        encoder.position.columns = nn.Parameter(double(1, 1, size[1], 3))
    x = double(2, 6, *size).requires_grad_()
    out = encoder(x)
    reference = expected(encoder, x, padding=100.0)
    torch.testing.assert_close(out, reference)
    expected_gradients = gradients(reference, encoder, x)
    for a, b in zip(gradients(out, encoder, x), expected_gradients):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize('position', POSITIONS)
def test_a_token_sees_its_window_and_nothing_else(position):
    encoder = build(position)
    x = double(1, 6, 6, 7).requires_grad_()
    out = encoder(x)
    for y, left in ((0, 0), (3, 3), (4, 2), (5, 6)):
        (grad,) = torch.autograd.grad(
            out[0, :3, y, left].sum(), x, retain_graph=True
        )
        seen = grad[0].abs().sum(0) > 0
        window = torch.zeros(6, 7, dtype=torch.bool)
        top, first = y // PATCH * PATCH, left // PATCH * PATCH
        window[top : top + PATCH, first : first + PATCH] = True
        assert torch.equal(seen, window)


@pytest.mark.parametrize('position', ['none', '2d', 'relative'])
def test_plain_zero_padding(position):
    """The paper's: zeros are tokens like all others."""
    encoder = build(position, pad_mask=False)
    x = double(2, 6, 6, 7)
    torch.testing.assert_close(
        encoder(x), expected(encoder, x, padding=0.0, masked=False)
    )
    masked = build(position)
    assert not torch.allclose(masked(x), encoder(x))
    whole = double(2, 6, 8, 4)
    assert torch.equal(masked(whole), encoder(whole))


@pytest.mark.parametrize('position', POSITIONS)
@pytest.mark.parametrize('pre_norm', [False, True])
@pytest.mark.parametrize('tokens', [1, 40, 1000])
def test_evaluation_a_few_windows_at_a_time(
    monkeypatch, position, pre_norm, tokens
):
    """On a CPU without gradients: same values, and the input survives."""
    monkeypatch.setattr(cpu, 'TOKENS', tokens)
    encoder = build(position, pre_norm=pre_norm).float().eval()
    for size in ((4, 4), (8, 12), (9, 10)):
        x = torch.randn(3, 6, *size)
        before = x.clone()
        with torch.no_grad():
            maps = encoder(x)
        assert torch.equal(x, before)
        torch.testing.assert_close(maps, encoder(x), rtol=1e-4, atol=1e-5)


def test_a_hooked_layer_is_called_for_all_windows():
    encoder = build().float().eval()
    shapes = []
    encoder.mlp.fc1.register_forward_hook(
        lambda module, inputs, output: shapes.append(tuple(output.shape))
    )
    with torch.no_grad():
        encoder(torch.randn(2, 6, 9, 8))
    assert shapes == [(2, 4, 4, 4, 10), (2, 2, 1, 4, 10)]


def test_tables_of_a_whole_map_are_resized():
    encoder = build('2d_image', map_size=5)
    code = encoder.position
    with torch.no_grad():
        code.rows.copy_(
            torch.arange(5.0).view(1, 5, 1, 1).expand(-1, -1, 1, 3)
        )
        code.columns.fill_(2.0)
    same = code(0 * double(5, 5, 6))
    assert torch.equal(same[:, 1, 0], torch.arange(5.0).double())
    larger = code(0 * double(10, 3, 6))
    assert larger.shape == (10, 3, 6)
    assert torch.equal(larger[..., 3:], torch.full_like(larger[..., 3:], 2))
    steps = larger[:, 0, 0].diff()
    assert (steps >= 0).all() and larger[-1, 0, 0] == 4
    torch.testing.assert_close(steps[2:-2], torch.full((5,), 0.5).double())


def test_drop_path_takes_whole_images():
    """Where both branches of an image are dropped, its tokens stay."""
    torch.manual_seed(0)
    encoder = build('none', pre_norm=True, drop_path=0.5).train()
    x = double(64, 6, 6, 7)
    change = (encoder(x) - x).abs()
    kept = change.amax(dim=(1, 2, 3)) == 0
    assert 4 < kept.sum() < 32, 'a quarter of the images, about'
    assert (change.amax(dim=1)[~kept] > 0).all(), 'all windows or none'
    assert torch.equal(encoder.eval()(x), build('none', pre_norm=True)(x))


def test_dropout_in_training_only():
    encoder = build(drop_rate=0.5)
    x = double(1, 6, 8, 8)
    assert not torch.equal(encoder.train()(x), encoder(x))
    plain = build()
    assert torch.equal(encoder.eval()(x), plain(x))
    for layer in encoder.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    encoder.attention.attention_drop_rate = 0.0
    torch.testing.assert_close(encoder.train()(x), plain(x))


@pytest.mark.parametrize('position', POSITIONS)
def test_initial_values(position):
    torch.manual_seed(0)
    encoder = PatchwiseTransformerEncoder(64, 7, position=position, map_size=9)
    for name, value in encoder.named_parameters():
        if name == 'attention.proj.bias':
            assert value.std().item() == pytest.approx(0.02, rel=0.4), name
        elif name.startswith('position') or name.endswith('bias'):
            assert not value.any(), name
        elif 'norm' in name:
            assert torch.equal(value, torch.ones_like(value)), name
        else:
            assert value.std().item() == pytest.approx(0.02, rel=0.1), name


@pytest.mark.parametrize('position', POSITIONS)
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision(position, dtype):
    encoder = build(position).float()
    x = torch.randn(2, 6, 9, 10)
    exact = encoder(x)
    with torch.autocast('cpu', dtype=dtype):
        rounded = encoder(x)
    assert (rounded - exact).norm() / exact.norm() < 0.03
    result = encoder.to(dtype)(x.to(dtype))
    assert result.dtype == dtype
    assert (result - exact).norm() / exact.norm() < 0.03


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(channels=6, num_heads=4), 'multiple of num_heads, got 6'),
        (dict(channels=6, num_heads=0), 'and 0 heads'),
        (dict(patch_size=0), 'patch_size must be a positive int, got 0'),
        (dict(patch_size=(7, 7)), r'patch_size must be.*\(7, 7\)'),
        (dict(position='3d'), "position must be one of.*got '3d'"),
        (dict(channels=5), 'channels must be even, got 5'),
        (dict(position='2d_image'), 'needs map_size.*got None'),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        PatchwiseTransformerEncoder(
            **{'channels': 6, 'patch_size': 7, **kwargs}
        )
