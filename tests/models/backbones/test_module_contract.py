"""Backbones compose like other PyTorch modules, whatever their family.

Hooks see every module, nothing that a module returned changes afterwards, and
layers can be replaced: by adapters, quantised, pruned or sharded ones.
"""

import copy
from contextlib import nullcontext

import pytest
import torch
import torch.distributed as dist
from mmengine.runner.activation_checkpointing import (
    turn_on_activation_checkpointing,
)
from mmengine.utils.dl_utils.parrots_wrapper import _BatchNorm
from torch import nn
from torch.ao.quantization import quantize_dynamic
from torch.nn.utils import parametrize, prune

try:
    from torch.distributed.fsdp import fully_shard
except ImportError:  # torch 2.5, where it needs a GPU
    fully_shard = None

from mmctx.ops import reference
from tests.helpers.backbones import TINY, build_tiny
from tests.models.backbones.test_contract import image, loss_of

pytestmark = pytest.mark.parametrize('name', sorted(TINY))

NORMS = (_BatchNorm, nn.LayerNorm, nn.GroupNorm)
CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.ParameterList)
#: Training or not, gradients or not, faster forms or not.
WAYS = [
    pytest.param(train, grad, fast, id=f'{train=}-{grad=}-{fast=}')
    for train in (False, True)
    for grad in (False, True)
    for fast in (False, True)
]
ways = pytest.mark.parametrize('train, grad, fast', WAYS)


def run(model, train, grad, fast):
    torch.manual_seed(0)
    with torch.set_grad_enabled(grad), nullcontext() if fast else reference():
        return model.train(train)(image(2, 3, 64, 64))


def tensors_in(value):
    """Tensors in whatever a module was given or returned."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_in(item)


def ends_in_norm(module):
    """What torchvision's ResNet overwrites, too."""
    if isinstance(module, nn.Sequential):
        return len(module) > 0 and ends_in_norm(module[-1])
    return isinstance(module, NORMS)


@ways
def test_a_hook_on_any_module_fires(name, train, grad, fast):
    model = build_tiny(name, drop_path_rate=0.1)
    silent = {
        key
        for key, module in model.named_modules()
        if not isinstance(module, CONTAINERS)
    }
    for key, module in model.named_modules():
        module.register_forward_hook(
            lambda *args, key=key: silent.discard(key)
        )
    run(model, train, grad, fast)
    assert not silent


@ways
def test_what_modules_return_and_are_given_stays(name, train, grad, fast):
    """With hooks on one level of the tree at a time, and on all levels."""
    model = build_tiny(name, drop_path_rate=0.1)
    levels = [key.count('.') for key, _ in model.named_modules()]
    for level in (*sorted({*levels}), None):
        seen, handles = [], []

        def save(module, inputs, output, *, key, seen=seen):
            outputs = () if ends_in_norm(module) else output
            for tensor in (*tensors_in(inputs), *tensors_in(outputs)):
                seen.append((key, tensor, tensor.detach().clone()))

        for key, module in model.named_modules():
            if level in (None, key.count('.')):
                handles.append(
                    module.register_forward_hook(
                        lambda *args, key=key, save=save: save(*args, key=key)
                    )
                )
        run(model, train, grad, fast)
        for handle in handles:
            handle.remove()
        assert seen
        changed = {k for k, now, then in seen if not torch.equal(now, then)}
        assert not changed, (level, changed)


class Adapted(nn.Module):
    """The call signature of a layer, and nothing else of it."""

    def __init__(self, base):
        super().__init__()
        self.base = base
        self.gain = nn.Parameter(torch.zeros(1, dtype=torch.double))

    def forward(self, *args, **kwargs):
        out = self.base(*args, **kwargs)
        return out + self.gain * out


@pytest.mark.parametrize(
    'kinds', [(nn.Linear,), NORMS, (nn.Linear, nn.Conv2d, *NORMS)]
)
@pytest.mark.parametrize('train', [False, True])
def test_adapters(name, kinds, train):
    model = build_tiny(name).double().train(train)
    frozen = {k for k, p in model.named_parameters() if not p.requires_grad}
    plain = copy.deepcopy(model)
    x = image(2, 3, 64, 64, dtype=torch.double)
    # From the innermost: wrapped layers hold layers, too.
    pairs = [
        (parent, child, module)
        for parent in model.modules()
        for child, module in parent.named_children()
        if isinstance(module, kinds)
    ]
    for parent, child, module in pairs:
        parent.register_module(child, Adapted(module).train(train))
    for a, b in zip(model(x), plain(x)):
        torch.testing.assert_close(a, b)
    with torch.no_grad():
        for a, b in zip(model(x), plain(x)):
            torch.testing.assert_close(a, b)
    loss_of(model(x)).backward()
    without = [
        key
        for key, parameter in model.named_parameters()
        if key.endswith('.gain')
        and parameter.grad is None
        and not any(
            k.startswith(key.replace('.base', '')[: -len('gain')])
            for k in frozen
        )
    ]
    assert not without


class Doubled(nn.Module):
    """A parametrisation."""

    def forward(self, weight):
        return 2 * weight


def test_parametrised_and_pruned_layers(name):
    """They take effect in evaluation, where faster forms may run."""
    model = build_tiny(name).eval()
    layers = [m for m in model.modules() if type(m) in (nn.Linear, nn.Conv2d)]
    x = image(2, 3, 64, 64)
    for i, layer in enumerate(layers):
        if i % 2:
            parametrize.register_parametrization(layer, 'weight', Doubled())
        else:
            prune.l1_unstructured(layer, 'weight', amount=0.5)
    with torch.no_grad():
        maps = model(x)
        with reference():
            expected = model(x)
    for a, b in zip(maps, expected):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_dynamic_quantisation(name):
    model = build_tiny(name).eval()
    quantised = quantize_dynamic(model, {nn.Linear})
    with torch.no_grad():
        maps = quantised(image(2, 3, 64, 64))
        exact = model(image(2, 3, 64, 64))
    for a, b in zip(maps, exact):
        assert (a - b).norm() / b.norm() < 0.1


def test_mmengine_recomputes_a_stage(name):
    model = build_tiny(name).train()
    runs = []
    layer = next(
        m for m in model.stages[2].modules() if isinstance(m, nn.Conv2d)
    )
    layer.register_forward_pre_hook(lambda *args: runs.append(1))
    turn_on_activation_checkpointing(model, ['stages.2'])
    loss_of(model(image(2, 3, 64, 64))).backward()
    assert len(runs) == 2


@pytest.fixture(scope='module')
def one_process_group(tmp_path_factory):
    store = tmp_path_factory.mktemp('gloo') / 'store'
    dist.init_process_group(
        'gloo', init_method=f'file://{store}', rank=0, world_size=1
    )
    yield
    dist.destroy_process_group()


@pytest.mark.skipif(fully_shard is None, reason='needs torch 2.6')
@pytest.mark.parametrize('unit', ['stage', 'block', 'layer'])
def test_fully_shard(name, unit, one_process_group):
    model = build_tiny(name).train()
    expected = loss_of(model(image(2, 3, 64, 64)))
    mesh = dist.init_device_mesh('cpu', (1,))
    parts = {
        'stage': list(model.stages),
        'block': [b for stage in model.stages for b in stage.children()],
        'layer': [
            m
            for m in model.modules()
            if not isinstance(m, CONTAINERS)
            and list(m.parameters(recurse=False))
        ],
    }[unit]
    for part in reversed(parts):
        if not isinstance(part, CONTAINERS):
            fully_shard(part, mesh=mesh)
    fully_shard(model, mesh=mesh)
    loss = loss_of(model(image(2, 3, 64, 64)))
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-3, atol=1e-3)
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None or not parameter.requires_grad, key


def in_float64(name):
    """A smooth enough network: in evaluation, its choice of classes fixed."""
    torch.manual_seed(0)
    return build_tiny(name).double().eval()


def test_forward_mode_derivatives(name):
    """Against those of the backward pass: u J v, from both sides."""
    model = in_float64(name)
    x = image(1, 3, 32, 32, dtype=torch.double)
    v = image(1, 3, 32, 32, dtype=torch.double).flip(3)
    _, tangents = torch.func.jvp(model, (x,), (v,))
    x.requires_grad_()
    loss_of(model(x)).backward()
    torch.testing.assert_close(loss_of(tangents), (x.grad * v).sum())


def test_double_backward(name):
    """H v of the loss, against a difference of gradients."""
    model = in_float64(name)
    x = image(1, 3, 32, 32, dtype=torch.double).requires_grad_()
    v = image(1, 3, 32, 32, dtype=torch.double).flip(3)

    def gradient(x, **options):
        loss = sum(m.square().mean() for m in model(x))
        return torch.autograd.grad(loss, x, **options)[0]

    (product,) = torch.autograd.grad(gradient(x, create_graph=True), x, v)
    step = 1e-6
    difference = gradient(x + step * v) - gradient(x - step * v)
    error = (product - difference / (2 * step)).norm() / product.norm()
    assert error < 1e-4


def test_empty_batch(name):
    model = build_tiny(name)
    for train in (False, True):
        maps = model.train(train)(image(0, 3, 64, 96))
        assert [tuple(m.shape) for m in maps] == [
            (0, channels, 64 // stride, 96 // stride)
            for channels, stride in zip(model.out_channels, model.out_strides)
        ]
    assert all(b.isfinite().all() for b in model.buffers())


def test_batch_of_one_in_training(name):
    """As the last batch of an epoch may be; ResNets train on it, too."""
    model = build_tiny(name).train()
    x = image(1, 3, 96, 96)
    loss_of(model(x)).backward()
    for key, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad.isfinite().all(), key
    assert all(b.isfinite().all() for b in model.buffers())
