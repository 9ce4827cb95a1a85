"""Which implementation of an operator runs."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils import parametrize, prune
from torch.utils.flop_counter import FlopCounterMode

from mmctx.ops import (
    contextual_deform_conv,
    local_aggregation,
    reference,
)
from mmctx.ops.dispatch import (
    cpu_variant,
    refuse_cpu_inference,
    refuse_custom_operator,
    refuse_layers,
)

CALLS = {
    'local_aggregation': (
        lambda x, w: local_aggregation(x, w, 3),
        ((1, 4, 5, 6), (1, 2, 9, 5, 6)),
    ),
    'contextual_deform_conv': (
        lambda x, w: contextual_deform_conv(
            x, x.new_zeros(1, 18, 5, 6), w, padding=1
        ),
        ((1, 4, 5, 6), (1, 4, 1, 3, 3)),
    ),
}


class Call(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


def ours_in(graph):
    """Whether an operator of this package is called."""
    return any('mmctx' in str(node.target) for node in graph.nodes)


@pytest.mark.parametrize('name', CALLS)
def test_compilers_get_our_operator_and_exporters_none(name):
    function, shapes = CALLS[name]
    inputs = tuple(torch.randn(shape) for shape in shapes)
    expected = function(*inputs)
    graphs = []

    def remember(graph, _):
        graphs.append(graph.graph)
        return graph

    torch._dynamo.reset()
    compiled = torch.compile(function, fullgraph=True, backend=remember)
    torch.testing.assert_close(compiled(*inputs), expected)
    assert [ours_in(graph) for graph in graphs] == [True]

    exported = torch.export.export(Call(function), inputs, strict=False)
    torch.testing.assert_close(exported.module()(*inputs), expected)
    assert not ours_in(exported.graph)


def test_reference_refuses_everything_and_nests():
    layer, x = nn.Linear(2, 2), torch.zeros(1)
    with torch.no_grad():
        with reference():
            with reference():
                pass
            for reason in (
                refuse_custom_operator(),
                refuse_cpu_inference(x),
                refuse_layers(layer),
            ):
                assert 'reference()' in reason
        assert refuse_custom_operator() is None
        assert refuse_cpu_inference(x) is None
        assert refuse_layers(layer, None) is None


def test_reference_ends_with_an_error():
    with pytest.raises(KeyError), reference():
        raise KeyError
    assert refuse_custom_operator() is None


@torch.no_grad()
def test_inference_variants_need_ordinary_float32_on_a_cpu():
    x = torch.zeros(2)
    assert refuse_cpu_inference(x) is None
    assert 'float64' in refuse_cpu_inference(x, x.double())
    assert 'on a CPU' in refuse_cpu_inference(x.to('meta'))
    assert refuse_cpu_inference(nn.Parameter(x)) is None
    with torch.enable_grad():
        assert 'gradients' in refuse_cpu_inference(x)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert 'autocast' in refuse_cpu_inference(x)
    with FlopCounterMode(display=False):
        assert 'mode' in refuse_cpu_inference(x)
    with torch.inference_mode():
        assert refuse_cpu_inference(torch.zeros(2)) is None


def test_transforms_see_the_reference():
    reasons = []

    def function(x):
        reasons.append(refuse_custom_operator())
        return x

    torch.func.jvp(function, (torch.ones(1),), (torch.ones(1),))
    with torch.autograd.forward_ad.dual_level():
        function(torch.ones(1))
    torch.func.vmap(function)(torch.ones(1))
    assert all('forward-mode' in reason for reason in reasons)
    assert len(reasons) == 3


class Mine(nn.Linear):
    pass


def with_hook(layer):
    layer.register_forward_hook(lambda *args: None)
    return layer


def with_own_forward(layer):
    layer.forward = layer.forward
    return layer


@pytest.mark.parametrize(
    'change',
    [
        with_hook,
        with_own_forward,
        lambda layer: prune.l1_unstructured(layer, 'weight', amount=1),
        lambda layer: parametrize.register_parametrization(
            layer, 'weight', nn.Identity()
        ),
        lambda layer: Mine(2, 2),
        lambda layer: nn.Sequential(with_hook(layer)),
        lambda layer: nn.Sequential(Mine(2, 2)),
    ],
)
def test_only_plain_layers_are_read(change):
    assert refuse_layers(nn.Sequential(nn.Linear(2, 2))) is None
    assert refuse_layers(nn.Sequential(change(nn.Linear(2, 2)))) is not None


def test_global_hooks_keep_layers_from_being_read():
    handle = nn.modules.module.register_module_forward_hook(lambda *args: None)
    try:
        assert 'recorded' in refuse_layers(nn.Linear(2, 2))
    finally:
        handle.remove()
    assert refuse_layers(nn.Linear(2, 2)) is None


class Scaled(nn.Module):
    """Its variant gives itself away by the sign."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)

    @cpu_variant(
        lambda module, x, other=None, scale=1: -scale * x,
        lambda module, x, other=None, scale=1: 'zero' if scale == 0 else None,
    )
    def forward(self, x, other=None, scale=1):
        return scale * x


Scaled.__module__ = 'mmctx.tests'


@torch.no_grad()
def test_cpu_variants():
    module, x = Scaled().eval(), torch.ones(2)
    assert module(x)[0] == -1
    assert module(x, scale=2)[0] == -2
    assert module(x, x, scale=0)[0] == 0, 'refused'
    with reference():
        assert module(x)[0] == 1
    with torch.enable_grad():
        assert module(x)[0] == 1
    # Keyword arguments, too, are looked at.
    assert module(x, other=x.double())[0] == 1
    assert module(x, other=Scaled().eval())[0] == -1
    assert module(x, other=Scaled())[0] == 1, 'in training'
    assert module(x, other=with_hook(Scaled().eval()))[0] == 1
    with_hook(module.layer)
    assert module(x)[0] == 1
    assert Scaled.forward.__wrapped__.__name__ == 'forward'


def test_layers_without_data_are_plain():
    """An estimate of a GPU's work sees what would run there."""
    with FakeTensorMode():
        assert refuse_layers(nn.Sequential(nn.Linear(2, 2))) is None
