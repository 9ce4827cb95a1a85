"""What Container has beyond the contract of all backbones."""

import pytest
import torch
from mmcv.cnn.bricks import DropPath
from mmengine.registry import MODELS
from torch import nn

from mmctx import get_backbone, get_model
from mmctx.models.backbones import Container
from mmctx.ops import reference
from tests.helpers.backbones import TINY, build_tiny
from tests.helpers.scripts import load_script

get_flops = load_script('tools/analysis_tools/get_flops.py')

#: Millions of parameters, Tables 1 and 2 of the paper; for the released
#: network those of its state dict. 'pam' is H-DeiT-S and the tables of MLP.
PARAMETERS = {
    'light': 20.634,
    'light_paper': 20.0,
    'full': 22.1,
    'h_deit_small': 22.1,
    'conv3': 33.8,
    'group_conv3': 20.5,
    'dw3': 18.7,
    'mh_dw3': 18.6,
    'mlp': 50.9,
    'mlp_lr': 36.5,
    'mh_mlp_lr': 41.6,
    'pam': 22.1 + 32.28,
}
#: Billions of multiply-adds at 224 x 224: Table 1, and the released network.
MULTIPLY_ADDS = {'light': 3.848, 'light_paper': 3.2, 'full': 8.1}
KINDS = ('Container', 'Container full')


def on_meta(name='container', **options):
    with torch.device('meta'):
        return get_model(name, **options).eval().requires_grad_(False)


def count(model, *shape):
    x = torch.empty(*shape, device='meta')
    return get_flops.count_multiply_adds(lambda: model(x))


@pytest.mark.parametrize('arch', sorted(Container.arch_settings))
def test_parameters_of_every_row(arch):
    model = on_meta(arch=arch)
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    assert millions == pytest.approx(PARAMETERS[arch], rel=0.02)


@pytest.mark.parametrize('arch', sorted(MULTIPLY_ADDS))
def test_multiply_adds(arch):
    total = count(on_meta(arch=arch), 1, 3, 224, 224)['Global'] / 1e9
    assert total == pytest.approx(MULTIPLY_ADDS[arch], rel=0.03)


def stage_costs(arch, height, width):
    """Multiply-adds per pixel of each stage's map."""
    model = on_meta(arch=arch).backbone
    counts = count(model, 1, 3, height, width)
    return [
        get_flops.count_of(stage, f'Container.stages.{i}', counts)
        / (-(-height // stride) * -(-width // stride))
        for i, (stage, stride) in enumerate(zip(model.stages, (4, 8, 16, 32)))
    ]


@pytest.mark.parametrize('height, width', [(800, 1333), (1600, 2666)])
def test_light_costs_as_much_per_pixel_at_any_size(height, width):
    """Linear in the first three stages, with attention only in the last."""
    small = stage_costs('light', 224, 224)
    large = stage_costs('light', height, width)
    assert large[:3] == pytest.approx(small[:3], rel=1e-12)
    assert large[3] > 1.05 * small[3]
    full = stage_costs('full', height, width)
    assert min(b / a for a, b in zip(small, full)) > 1.1, 'seen by the counter'


@pytest.mark.parametrize('arch', sorted(Container.arch_settings))
def test_every_row_runs_at_any_size_and_trains(arch):
    """At the widths of 8 channels per head, as 32 would take long."""
    settings = Container.arch_settings[arch]
    tiny = dict(settings, embed_dims=(16, 32, 80, 128), depths=(1, 1, 2, 1))
    model = Container(tiny)
    with torch.no_grad():
        for m in model.eval()(torch.randn(1, 3, 33, 47)):
            assert m.isfinite().all()
    maps = model.train()(torch.randn(2, 3, 64, 96))
    sum(m.square().mean() for m in maps).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all(), key
        if not key.endswith('bias'):
            assert parameter.grad.any(), key


def test_stages_of_light():
    """Attention in the last stage alone, 5 x 5 kernels per channel."""
    model = on_meta('container_light').backbone
    layers = [[b.aggregation for b in stage] for stage in model.stages]
    assert [len(stage) for stage in layers] == [3, 4, 8, 3]
    for i, stage in enumerate(layers):
        for layer in stage:
            assert layer.has_dynamic == (i == 3)
            channels = model.out_channels[i]
            assert layer.static.weight.shape == (channels, 1, 5, 5)
    assert layers[3][0].num_heads == 16


def test_aggregation_can_be_changed():
    model = build_tiny(
        'Container', aggregation=dict(mixing='scalars', kernel_size=3)
    )
    last = model.stages[3][0].aggregation
    assert last.mixing_weight.shape == (2,)
    assert last.static.kernel_size == (3, 3)
    assert model.stages[0][0].aggregation.mixing_weight is None
    full = Container('light', aggregation=dict(dynamic='attention'))
    assert all(
        b.aggregation.has_dynamic for stage in full.stages for b in stage
    )


def test_tables_belong_to_images_of_224_pixels():
    model = build_tiny('Container', aggregation=dict(static='mlp'))
    sizes = [stage[0].aggregation.static.size for stage in model.stages]
    assert sizes == [(56, 56), (28, 28), (14, 14), (7, 7)]


@pytest.mark.parametrize('kind', KINDS)
def test_inference_on_a_cpu_changes_nothing(kind):
    """Sliced, and with folded norms, against layers one after the other."""
    model = build_tiny(kind)
    for _ in range(2):
        model.train()(torch.randn(4, 3, 64, 64))
    model.eval()
    x = torch.randn(3, 3, 64, 96)
    expected = model(x)
    with torch.no_grad():
        fast = model(x)
        with reference():
            plain = model(x)
    for a, b, c in zip(fast, plain, expected):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(b, c, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('kind', KINDS)
def test_other_norms(kind):
    """Only batch norm can be folded; group norm is not."""
    model = build_tiny(kind, norm_cfg=dict(type='GN', num_groups=4)).eval()
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    x = torch.randn(1, 3, 64, 64)
    expected = model(x)
    with torch.no_grad():
        for a, b in zip(model(x), expected):
            torch.testing.assert_close(a, b)
    model.train()(x)  # a batch of one


def test_drop_path_grows_linearly():
    model = build_tiny('Container', drop_path_rate=0.5)
    blocks = [block for stage in model.stages for block in stage]
    rates = [b.drop_path.drop_prob for b in blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])
    cut = build_tiny('Container', drop_path_rate=0.5, out_indices=(0, 1))
    assert cut.stages[1][1].drop_path.drop_prob == pytest.approx(0.2)


def test_each_branch_is_dropped_by_itself():
    """Per image: of the aggregation's, the MLP's, both or neither."""
    block = build_tiny('Container', drop_path_rate=0.5).stages[3][1].double()
    block.train()
    for norm in (block.aggregation.norm, block.feed.norm):
        norm.eval()
    x = torch.randn(1, 32, 3, 3, dtype=torch.double)
    x = x.to(memory_format=torch.channels_last)
    first = block.position_encoding(x)
    outcomes = []
    for a in (0, 2):
        middle = first + a * block.aggregation(first)
        outcomes += [middle + b * block.feed(middle) for b in (0, 2)]
    torch.manual_seed(0)
    kinds = [
        [torch.allclose(out, outcome[0]) for outcome in outcomes].index(True)
        for out in block(x.expand(64, -1, -1, -1))
    ]
    assert min(map(kinds.count, range(4))) > 4


def test_starts_as_released():
    """PyTorch's own values but for the classifier."""
    torch.manual_seed(0)
    model = get_model('container_light')
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    for conv in convs:
        fan_in = conv.weight[0].numel()
        bound = fan_in**-0.5
        for tensor in (conv.weight, conv.bias):
            assert tensor.abs().max() <= bound
        std = conv.weight.std().item()
        assert std == pytest.approx(bound / 3**0.5, rel=0.1)
    for block in model.backbone.stages[3]:
        assert block.aggregation.mixing_weight.sigmoid() == 0.5
    fc = model.head.fc
    assert fc.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not fc.bias.any()
    eps = {
        m.eps
        for m in model.modules()
        if isinstance(m, (nn.BatchNorm2d, nn.LayerNorm))
    }
    assert eps == {1e-5}


def test_classifier_uses_every_parameter():
    arch = TINY['Container']['arch']
    model = get_model('container_light', num_classes=5, arch=arch).train()
    model(torch.randn(2, 3, 64, 96)).square().sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key


def test_layers_for_decay():
    """The embedding of a stage goes with its first block."""
    model = get_backbone('container_light')
    depth = model.get_layer_depth
    assert depth('stem.proj.weight') == (0, 20)
    assert depth('stages.0.0.feed.fc1.weight') == (1, 20)
    assert depth('stages.1.0.embedding.proj.weight') == (4, 20)
    assert depth('stages.3.2.aggregation.mixing_weight') == (18, 20)
    assert depth('neck.norm.weight', 'backbone.') == (19, 20)


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(arch='heavy'), "arch must be one of.*got 'heavy'"),
        (dict(arch=dict(embed_dims=(8,))), 'four values \\(one per stage'),
        (
            dict(arch=dict(TINY['Container']['arch'], depths=(1, 1, 1, 0))),
            'depths must be positive',
        ),
        (
            dict(arch=dict(TINY['Container']['arch'], heads=3)),
            "'aggregation'",
        ),
        (dict(aggregation=dict(size=(1, 1))), 'aggregation may hold'),
        (dict(aggregation=dict(num_heads=3)), 'num_heads must divide the 32'),
        (dict(aggregation=dict(dynamic='none', static='none')), 'needs a dyn'),
        (dict(norm_cfg=dict(type='LN')), 'norm of feature maps'),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        build_tiny('Container', **options)


def test_pam_is_deit_with_tables():
    """DeiT-S has 22.05 M parameters; each block adds 197 x 197 and w."""
    cfg = dict(type='PAMVisionTransformer', arch='deit-small', img_size=224)
    plain = dict(type='mmpretrain.VisionTransformer', arch='deit-small')
    with torch.device('meta'):
        sizes = [
            sum(p.numel() for p in MODELS.build(c).parameters())
            for c in (cfg, plain)
        ]
    assert sizes[0] - sizes[1] == 12 * (197 * 197 + 1)


SMALL_PAM = dict(
    arch=dict(
        embed_dims=32, num_layers=2, num_heads=4, feedforward_channels=64
    ),
    img_size=32, patch_size=8, out_type='featmap', drop_path_rate=0.1,
)  # fmt: skip


@pytest.mark.parametrize('grad', [False, True])
def test_pam_calls_every_layer(grad):
    pam = MODELS.build(dict(SMALL_PAM, type='PAMVisionTransformer'))
    pam.eval()
    silent = set()
    for key, module in pam.layers.named_modules():
        if key and not isinstance(module, nn.ParameterList):
            silent.add(key)
            module.register_forward_hook(
                lambda *args, key=key: silent.discard(key)
            )
    with torch.set_grad_enabled(grad):
        pam(torch.randn(2, 3, 32, 32))
    assert not silent


def test_pam_without_tables_is_deit():
    """alpha = 1, beta = 0."""
    plain = MODELS.build(dict(SMALL_PAM, type='mmpretrain.VisionTransformer'))
    pam = MODELS.build(
        dict(
            SMALL_PAM,
            type='PAMVisionTransformer',
            aggregation=dict(mixing='scalars'),
        )
    )
    names = {
        'attn.qkv.': 'attn.aggregation.project_in.',
        'attn.proj.': 'attn.aggregation.project_out.',
    }
    state = pam.state_dict()
    for key, value in plain.state_dict().items():
        for theirs, ours in names.items():
            key = key.replace(theirs, ours)
        state[key] = value.view(state[key].shape)
    for key, value in state.items():
        if key.endswith('mixing_weight'):
            value.copy_(torch.tensor([1.0, 0.0]))
    pam.load_state_dict(state, strict=True)
    x = torch.randn(2, 3, 32, 32)
    pam.eval()
    plain.eval()
    torch.testing.assert_close(pam(x)[0], plain(x)[0])
    pam(x)[0].square().sum().backward()
    for layer in pam.layers:
        assert layer.attn.aggregation.mixing_weight.grad.all()
        assert isinstance(layer.attn.out_drop, DropPath)
