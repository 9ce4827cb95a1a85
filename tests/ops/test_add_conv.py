import pytest
import torch
from torch import nn

from mmctx.ops import add_conv, reference

CASES = {
    'convolution': lambda: nn.Conv2d(4, 6, 3),
    'separable': lambda: nn.Sequential(
        nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 6, 1)
    ),
}


def inputs(dtype=torch.float32):
    torch.manual_seed(0)
    shortcut = torch.randn(2, 6, 3, 2, dtype=dtype)
    return shortcut, torch.randn(2, 4, 5, 4, dtype=dtype)


def is_output_reused(x, branch, conv):
    """Whether the sum is in the memory that the last layer has written."""
    outputs, original = [], nn.Conv2d._conv_forward

    def remember(layer, *args):
        outputs.append(original(layer, *args))
        return outputs[-1]

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(nn.Conv2d, '_conv_forward', remember)
        out = add_conv(x, branch, conv)
    return out is outputs[-1]


@pytest.mark.parametrize('case', CASES)
def test_cpu_against_reference(case):
    conv, (x, branch) = CASES[case]().eval(), inputs()
    before = x.clone(), branch.clone()
    with torch.no_grad():
        out = add_conv(x, branch, conv)
        with reference():
            expected = add_conv(x, branch, conv)
            assert not is_output_reused(x, branch, conv)
    assert torch.equal(out, expected)
    assert torch.equal(x, before[0]) and torch.equal(branch, before[1])
    assert is_output_reused(x, branch, conv)


@pytest.mark.parametrize('case', CASES)
def test_gradients(case):
    conv, (x, branch) = CASES[case]().double(), inputs(torch.double)
    torch.autograd.gradcheck(
        lambda x, b: add_conv(x, b, conv),
        (x.requires_grad_(), branch.requires_grad_()),
    )


def test_what_hooks_hold_stays():
    conv, seen = nn.Conv2d(4, 6, 3).eval(), []
    conv.register_forward_hook(
        lambda module, args, out: seen.append((out, out.clone()))
    )
    with torch.no_grad():
        add_conv(*inputs(), conv)
    assert torch.equal(*seen[0])


@pytest.mark.parametrize(
    'layer', [nn.Identity(), nn.Sequential(), nn.Sequential(nn.Identity())]
)
def test_input_of_other_layers_stays(layer):
    """What they return may be what they are given."""
    x, branch = inputs()[0], torch.ones(2, 6, 3, 2)
    with torch.no_grad():
        out = add_conv(x, branch, layer.eval())
    assert torch.equal(out, x + 1) and torch.equal(
        branch, torch.ones(out.shape)
    )
