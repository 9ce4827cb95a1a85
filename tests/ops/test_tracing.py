"""Compilers and exporters get different operators."""

import pytest
import torch

from mmctx.ops import contextual_deform_conv, local_aggregation

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

    exported = torch.export.export(Call(function), inputs)
    torch.testing.assert_close(exported.module()(*inputs), expected)
    assert not ours_in(exported.graph)
