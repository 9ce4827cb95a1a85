import torch
from torch import nn

from mmctx.ops import reference
from mmctx.visualization import record, replay
from tests.helpers.backbones import build_tiny


def test_calls_of_a_layer():
    layer = nn.Linear(3, 2)
    with record(layer) as calls:
        outputs = [layer(torch.ones(i, 3)) for i in (1, 2)]
    layer(torch.ones(3, 3))
    assert [len(call.args[0]) for call in calls[layer]] == [1, 2]
    for call, output in zip(calls[layer], outputs):
        assert torch.equal(call.output, output)
        assert output.requires_grad and not call.output.requires_grad


def test_copies_outlive_what_overwrites_a_tensor():
    norm = nn.BatchNorm2d(3).eval()
    net = nn.Sequential(norm, nn.ReLU(inplace=True))
    x = torch.randn(1, 3, 4, 4)
    with record(norm) as calls:
        net(x)
    assert torch.equal(calls[norm][0].output, norm(x))


def test_hooks_go_also_after_an_error():
    layer = nn.Linear(3, 2)
    try:
        with record(layer):
            layer(torch.ones(1, 4))
    except RuntimeError:
        pass
    assert not layer._forward_hooks


def test_network_computes_what_its_plain_forms_do():
    model = build_tiny('CoaT parallel').eval()
    x = torch.randn(1, 3, 65, 97)
    with torch.no_grad(), record(*model.modules()) as calls:
        maps = model(x)
    with torch.no_grad(), reference():
        expected = model(x)
    for a, b in zip(maps, expected):
        assert torch.equal(a, b)
    assert all(torch.equal(a, b) for a, b in zip(maps, calls[model][0].output))


@torch.no_grad()
def test_replay_repeats_a_call():
    model = build_tiny('ContextualResNet').eval()
    layer = model.stages[2][0].operator[0]
    with record(layer, layer.sampling_predictor) as calls:
        model(torch.randn(1, 3, 65, 97))
    (call,) = calls[layer]
    (predicted,) = replay(layer, call, layer.sampling_predictor)
    (expected,) = calls[layer.sampling_predictor]
    assert torch.equal(predicted.output, expected.output)
