import pytest
import torch
from torch import nn

from mmctx.ops import context_projection, reference


def make_inputs(images=3):
    torch.manual_seed(0)
    x = torch.randn(images, 5, 4, 6, dtype=torch.double)
    context = torch.randn(images, 3, dtype=torch.double)
    return x.requires_grad_(), context.requires_grad_()


def count_calls(conv):
    """Of the layer, without a hook, which would be seen."""
    calls, forward = [], conv._conv_forward
    conv._conv_forward = lambda *args: calls.append(1) or forward(*args)
    return calls


def results(conv, *inputs):
    """Output and gradients of inputs and parameters."""
    out = context_projection(*inputs, conv)
    probe = torch.linspace(-1, 1, out.numel(), dtype=out.dtype)
    leaves = *inputs, *conv.parameters()
    return out, *torch.autograd.grad((out * probe.view_as(out)).sum(), leaves)


@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('images', [3, 0])
def test_equals_the_joined_feature_map(images, bias):
    """In training, too."""
    conv, inputs = nn.Conv2d(8, 4, 1, bias=bias).double(), make_inputs(images)
    calls = count_calls(conv)
    split = results(conv, *inputs)
    assert not calls
    with reference():
        joined = results(conv, *inputs)
    assert calls == [1]
    for a, b in zip(split, joined):
        torch.testing.assert_close(a, b)


def test_without_a_context_the_layer_is_called():
    conv, (x, _) = nn.Conv2d(5, 4, 1).double(), make_inputs()
    assert torch.equal(context_projection(x, None, conv), conv(x))


class Adapted(nn.Module):
    def __init__(self, base):
        super().__init__()
        self.base = base

    def forward(self, x):
        return 2 * self.base(x)


def test_other_layers_are_called():
    conv, inputs = nn.Conv2d(8, 4, 1).double(), make_inputs()
    expected = context_projection(*inputs, conv)
    torch.testing.assert_close(
        context_projection(*inputs, Adapted(conv)), 2 * expected
    )
    shapes = []
    conv.register_forward_hook(lambda _, args, out: shapes.append(out.shape))
    torch.testing.assert_close(context_projection(*inputs, conv), expected)
    assert shapes == [expected.shape]
