import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from mmctx.ops import reference, windowed
from mmctx.ops.windowed import cpu

#: Whole windows, cut ones below, beside, both; smaller than a window.
SIZES = [(8, 4), (7, 8), (4, 9), (9, 10), (3, 2)]
SIZE = 4


def spread(windows):
    """Every token gets what all tokens of its window have in common."""
    return windows - 2 * windows.mean((2, 3), keepdim=True)


def windowed_reference(*args):
    with reference():
        return windowed(*args)


def window_by_window(x):
    out = torch.empty_like(x)
    for i in range(0, x.shape[1], SIZE):
        for j in range(0, x.shape[2], SIZE):
            window = x[:, i : i + SIZE, j : j + SIZE]
            out[:, i : i + SIZE, j : j + SIZE] = window - 2 * window.mean(
                (1, 2), keepdim=True
            )
    return out


def batch(n, height, width, dtype=torch.float32):
    """As a backbone gives it: (N, H, W, C), channels first in memory."""
    return torch.randn(n, 3, height, width, dtype=dtype).permute(0, 2, 3, 1)


@pytest.mark.parametrize('n', [0, 1, 3])
@pytest.mark.parametrize('size', SIZES)
def test_every_window_by_itself(n, size):
    x = batch(n, *size, torch.double)
    torch.testing.assert_close(
        windowed_reference(spread, x, SIZE), window_by_window(x)
    )


@pytest.mark.parametrize('tokens', [1, 40, 1000])
@pytest.mark.parametrize('n', [0, 1, 3])
@pytest.mark.parametrize('size', SIZES)
def test_cpu_against_reference(monkeypatch, n, size, tokens):
    monkeypatch.setattr(cpu, 'TOKENS', tokens)
    x = batch(n, *size)
    before = x.clone()
    with torch.no_grad():
        out = windowed(spread, x, SIZE)
    torch.testing.assert_close(out, windowed_reference(spread, x, SIZE))
    assert torch.equal(x, before)
    assert out.is_contiguous()


@pytest.mark.parametrize('size', SIZES)
def test_gradients(size):
    x = batch(2, *size, torch.double).requires_grad_()
    torch.autograd.gradcheck(lambda x: windowed(spread, x, SIZE), x)
    torch.autograd.gradgradcheck(lambda x: windowed(spread, x, SIZE), x)
    with torch.no_grad():
        _, tangent = torch.func.jvp(
            lambda x: windowed(spread, x, SIZE), (x,), (x.flip(1),)
        )
    torch.testing.assert_close(tangent, window_by_window(x.flip(1)))


def shapes_seen(layer, x):
    shapes = []

    def function(windows):
        shapes.append(tuple(windows.shape))
        return layer(windows)

    with torch.no_grad():
        windowed(function, x, SIZE, layer)
    return shapes


def test_a_few_windows_at_a_time(monkeypatch):
    monkeypatch.setattr(cpu, 'TOKENS', 64)
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 1)
    layer = nn.Linear(3, 3).eval()
    x, cut = batch(3, 13, 8), (3, 2, 1, 4, 3)
    bands = [(2, 2, 4, 4, 3)] * 3 + [(1, 2, 4, 4, 3)] * 3
    assert shapes_seen(layer, x) == [*bands, cut]
    with reference():
        assert shapes_seen(layer, x) == [(3, 6, 4, 4, 3), cut]


class Mine(nn.Linear):
    pass


def hooked(layer):
    layer.register_forward_hook(lambda *args: None)
    return layer


@pytest.mark.parametrize(
    'layer',
    [
        hooked(nn.Linear(3, 3)),
        Mine(3, 3),
        weight_norm(nn.Linear(3, 3)),
        nn.Sequential(nn.Linear(3, 3), nn.Dropout()),
    ],
    ids=['hooked', 'subclass', 'parametrised', 'dropout'],
)
def test_other_layers_see_all_windows(monkeypatch, layer):
    """In evaluation too, where dropout alone is in training at times."""
    monkeypatch.setattr(cpu, 'TOKENS', 1)
    layer.training = False
    assert shapes_seen(layer, batch(2, 8, 8)) == [(2, 4, 4, 4, 3)]
