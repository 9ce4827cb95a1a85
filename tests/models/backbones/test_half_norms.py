"""Layer norms that read and write half precision: what they change."""

import copy
from unittest import mock

import pytest
import torch
import torch.nn.functional as F

from mmctx.models.layers.norms import use_half_layer_norms
from tests.helpers.backbones import build_tiny


def layer_norm_of_a_gpu(x, *args, plain=F.layer_norm):
    """Autocast for CPUs keeps the input's dtype, that for GPUs does not."""
    is_on = torch.is_autocast_enabled('cpu')
    return plain(x.float() if is_on else x, *args)


def relative_errors(model, images, dtype):
    """Distances from float32, of outputs and of gradients, under autocast.

    Each is the norm of the difference over the norm of the float32 values, all
    outputs or gradients of parameters together.

    Returns:
        list[tuple[float, float]]: Of autocast, then with half norms, too.
    """

    def run(model, amp):
        torch.manual_seed(0)
        autocast = torch.autocast('cpu', dtype, enabled=amp)
        with autocast, mock.patch.object(F, 'layer_norm', layer_norm_of_a_gpu):
            outputs = model(images)
        loss = sum((torch.randn(y.shape) * y).sum() for y in outputs)
        learned = [p for p in model.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(loss, learned)
        return [
            torch.cat([x.detach().double().flatten() for x in tensors])
            for tensors in (outputs, gradients)
        ]

    half = copy.deepcopy(model)
    use_half_layer_norms(half)
    exact = run(model, amp=False)
    return [
        tuple(
            ((a - b).norm() / b.norm()).item()
            for a, b in zip(run(network, amp=True), exact)
        )
        for network in (model, half)
    ]


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    'name', ['CoaT', 'Container', 'ConTNet', 'ContextualConvNeXt']
)
def test_they_add_little_to_the_error_of_autocast(name, dtype):
    torch.manual_seed(0)
    model = build_tiny(name, half_norms=False)
    images = torch.randn(2, 3, 64, 64)
    autocast, half = relative_errors(model, images, dtype)
    for before, after in zip(autocast, half):
        assert before != after < 2 * before
    assert autocast[0] < 0.1  # the outputs; gradients of ReLUs jump


def test_they_change_nothing_without_autocast():
    images = torch.randn(2, 3, 32, 32)
    for name in ('CoaT', 'Container'):
        torch.manual_seed(0)
        model = build_tiny(name, half_norms=False).eval()
        half = build_tiny(name, half_norms=True).eval()
        half.load_state_dict(model.state_dict())
        for a, b in zip(half(images), model(images)):
            assert torch.equal(a, b)
