"""What Contextual CNN has beyond the contract of all backbones."""

import copy
import pickle

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.utils import apply_to
from torch import nn
from torch.nn.parallel import scatter_gather

from mmctx import get_backbone, get_model
from mmctx.models.backbones import ContextualConvNeXt, ContextualResNet
from mmctx.models.backbones.contextual_cnn import ScoredMaps
from mmctx.models.layers import ContextualConv2d
from tests.helpers.backbones import TINY, build_tiny
from tests.helpers.scripts import load_script

get_flops = load_script('tools/analysis_tools/get_flops.py')

KINDS = ('ContextualConvNeXt', 'ContextualResNet', 'ContextualResNet reduce')
kinds = pytest.mark.parametrize('kind', KINDS)

_FEATURES = dict(use_context=False)
#: Zoo name, overrides, millions of parameters and billions of multiply-adds
#: at 224 x 224 of the official code, and millions in the paper's Table 1, 4,
#: 5 or 6 where those are within 1 % of ours.
COUNTS = [
    ('ctx_convnext_tiny', {}, 33.950, 4.685, None),
    ('ctx_convnext_small', {}, 59.611, 9.135, None),
    ('ctx_convnext_base', {}, 104.160, 15.965, None),
    ('ctx_convnext_tiny', dict(contextual_every=1), 43.010, 5.091, None),
    ('ctx_convnext_tiny', dict(contextual_every=2), 37.809, 4.851, None),
    ('ctx_convnext_tiny', dict(sampling_offsets=False), 32.898, 4.485, None),
    ('ctx_convnext_tiny', dict(weight_offsets=False), 30.472, 4.682, None),
    ('ctx_convnext_tiny', _FEATURES, 33.695, None, None),
    ('ctx_convnext_tiny', dict(contextual_stages=()), 28.864, 4.456, None),
    ('ctx_resnet50', {}, 27.972, 4.218, 27.9),
    ('ctx_resnet50', dict(contextual_every=1), 29.556, None, None),
    ('ctx_resnet50', dict(contextual_every=3), 26.934, None, None),
    # Table 4: a3 and a4.
    ('ctx_resnet50', _FEATURES, 27.625, 4.167, None),
    ('ctx_resnet50', dict(_FEATURES, scored_stages=(3,)), 27.16, None, 27.2),
    ('ctx_resnet50', dict(_FEATURES, weight_offsets=False),
     25.721, 4.166, 25.7),
    # Table 5: b2 and b3, the latter without a mask, too.
    ('ctx_resnet50', dict(sampling_offsets=False), 27.563, 4.116, 27.5),
    ('ctx_resnet50', dict(weight_offsets=False), 25.973, 4.216, 25.9),
    ('ctx_resnet50', dict(weight_offsets=False, mask=False),
     25.932, 4.208, 25.9),
    # a2 and b1 have one accuracy and two sizes, 25.7 and 25.5.
    ('ctx_resnet50', dict(weight_offsets=False, sampling_offsets=False),
     None, None, 25.7),
    # Table 6; c1 has a fully connected layer in the paper.
    ('ctx_resnet50', dict(contextual_stages=()), 24.945, 4.089, None),
    ('ctx_resnet50', dict(contextual_stages=(3,)), 26.987, 4.119, None),
    ('ctx_resnet50', dict(contextual_stages=(2, 3)), 27.780, 4.165, 27.7),
    ('ctx_resnet50', dict(contextual_stages=(0, 1, 2, 3)), None, None, 28.0),
    ('ctx_resnet50', dict(embedding_dims=64), 27.521, None, 27.3),
    ('ctx_resnet50', dict(embedding_dims=128), 27.671, None, 27.5),
    ('ctx_resnet50', dict(embedding_dims=512), 28.573, None, 28.3),
]  # fmt: skip


@pytest.mark.parametrize(
    'name, overrides, params, multiply_adds, paper',
    COUNTS,
    ids=[f'{name}-{overrides}' for name, overrides, *_ in COUNTS],
)
def test_counts(name, overrides, params, multiply_adds, paper):
    with torch.device('meta'):
        model = get_model(name, **overrides).eval().requires_grad_(False)
    count = sum(p.numel() for p in model.parameters()) / 1e6
    if params is not None:
        assert count == pytest.approx(params, abs=0.005)
    if paper is not None:
        assert count == pytest.approx(paper, rel=0.01)
    if multiply_adds is not None:
        # Mergers see every class once per batch, not per image.
        x = torch.empty(8, 3, 224, 224, device='meta')
        counts = get_flops.count_multiply_adds(lambda: model(x))
        assert counts['Global'] / 8e9 == pytest.approx(multiply_adds, rel=0.03)


def test_contextual_blocks_as_published():
    """Every third from the first in ConvNeXt, every second in ResNet."""
    for arch, backbone in (('convnext_tiny', 'conv'), ('resnet50', None)):
        with torch.device('meta'):
            model = get_backbone(f'ctx_{arch}')
        found = [
            [
                i
                for i, block in enumerate(stage)
                if isinstance(
                    block.conv if backbone else block.operator[0],
                    ContextualConv2d,
                )
            ]
            for stage in model.stages
        ]
        expected = (
            [[], [0], [0, 3, 6], [0]]
            if backbone
            else [[], [0, 2], [0, 2, 4], [0, 2]]
        )
        assert found == expected


def stirred(model):
    """With predictors that predict something, and blocks that do."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, ContextualConv2d):
            for parameter in module.parameters():
                nn.init.normal_(parameter, std=0.2)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    if hasattr(model.contextualizing, 'embedding'):
        nn.init.normal_(model.contextualizing.embedding)
    return model


def classifier(kind, **options):
    torch.manual_seed(0)
    return stirred(build_tiny(kind, with_class_scores=True, **options))


def image(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@kinds
def test_class_scores_beside_the_maps(kind):
    model = classifier(kind).eval()
    maps = model(image(3, 3, 64, 64))
    assert isinstance(maps, ScoredMaps) and len(maps.maps) == 4
    assert [s.shape for s in maps.class_scores] == [(3, 12)] * 4
    first, *masks = maps.considered
    assert first is None
    assert [m.sum(1).tolist() for m in masks] == [[6] * 3, [4] * 3, [2] * 3]
    nested = all((b <= a).all() for a, b in zip(masks, masks[1:]))
    for scores, mask in zip(maps.class_scores[1:], masks):
        reduced = kind.endswith('reduce')
        assert torch.equal(scores.isfinite(), mask | (not reduced))
    assert nested or not kind.endswith('reduce')
    expected = maps.class_scores[1].topk(4).indices.sort(1).values
    assert torch.equal(masks[1].nonzero()[:, 1].view(3, 4), expected)


@kinds
def test_scores_follow_the_order_of_the_classes(kind):
    """In float64: sums over classes round differently in another order."""
    model = classifier(kind).eval().double()
    x = image(2, 3, 64, 64).double()
    before = model(x)
    order = torch.randperm(12)
    with torch.no_grad():
        embedding = model.contextualizing.embedding
        embedding.copy_(embedding[order].clone())
    after = model(x)
    for a, b in zip(after.maps, before.maps):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    for a, b in zip(after.class_scores, before.class_scores):
        torch.testing.assert_close(a, b[:, order], rtol=1e-4, atol=1e-4)


@kinds
def test_the_likely_classes_shape_the_maps(kind):
    """Other embeddings, other maps, from the first contextual stage on."""
    model = classifier(kind).eval()
    x = image(2, 3, 64, 64)
    before = model(x)
    with torch.no_grad():
        model.contextualizing.embedding.normal_(std=2)
    first = model.contextual_stages[0]
    for i, (a, b) in enumerate(zip(model(x).maps, before.maps)):
        assert torch.allclose(a, b) == (i < first)


@kinds
def test_everything_learns_in_a_classifier(kind):
    model = classifier(kind).train()
    maps = model(image(4, 3, 64, 64))
    weights = torch.linspace(-1, 1, 12).expand(4, -1)
    sum(
        (s * weights)[s.isfinite()].sum() for s in maps.class_scores
    ).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), key


@kinds
def test_what_is_frozen_in_a_detector(kind):
    """Score heads and temperature; the last head is not even built."""
    model = build_tiny(kind).train()
    frozen = {k for k, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {
        k
        for k, _ in model.named_parameters()
        if k.startswith('contextualizing.classify.')
        or k == 'contextualizing.log_scale'
    }
    layers = model.contextualizing
    assert list(layers.classify) == ['0', '1', '2']
    assert not any(m.training for m in layers.classify.modules())
    assert model.contextualizing.embedding.requires_grad
    before = {k: v.clone() for k, v in layers.classify.state_dict().items()}
    sum(m.sum() for m in model(image(2, 3, 64, 64))).backward()
    for key, value in layers.classify.state_dict().items():
        assert torch.equal(value, before[key]), key


@kinds
def test_a_detector_loads_a_classifier(kind, tmp_path):
    trained = classifier(kind).eval()
    path = tmp_path / 'classifier.pth'
    state = {f'backbone.{k}': v for k, v in trained.state_dict().items()}
    torch.save({'state_dict': state}, path)
    for out_indices in ((0, 1, 2, 3), (0,), (1, 2)):
        cfg = dict(type='Pretrained', checkpoint=str(path))
        model = build_tiny(kind, init_cfg=cfg, out_indices=out_indices)
        model.init_weights()
        x = image(2, 3, 64, 64)
        expected = trained(x)
        for m, i in zip(model.eval()(x), out_indices):
            torch.testing.assert_close(m, expected[i])


@pytest.mark.parametrize(
    'frozen_stages, mergers, embedding',
    [(1, [], True), (3, ['1', '2'], True), (4, ['1', '2', '3'], False)],
)
def test_frozen_stages_freeze_their_mergers(frozen_stages, mergers, embedding):
    model = build_tiny('ContextualResNet', frozen_stages=frozen_stages)
    layers = model.train().contextualizing
    for i, merger in layers.merge.items():
        frozen = {not p.requires_grad for p in merger.parameters()}
        assert frozen == {i in mergers}
    assert layers.embedding.requires_grad == embedding
    maps = model(image(2, 3, 64, 64))
    assert [m.requires_grad for m in maps] == [
        i >= frozen_stages for i in range(4)
    ]


@kinds
def test_padding(kind):
    """Explicit sizes and those told from zeros agree; full ones are none."""
    model = stirred(build_tiny(kind, ignore_padding=True)).double().eval()
    plain = build_tiny(kind, ignore_padding=False).double().eval()
    plain.load_state_dict(model.state_dict())
    x = image(2, 3, 96, 128).double()
    for a, b in zip(model(x), plain(x)):
        torch.testing.assert_close(a, b)
    x[1, :, 57:] = 0
    x[1, :, :, 70:] = 0
    sizes = torch.tensor([[96, 128], [57, 70]])
    for a, b, c in zip(model(x), plain(x, valid_sizes=sizes), plain(x)):
        torch.testing.assert_close(a, b)
        torch.testing.assert_close(a[0], c[0])
    assert not torch.allclose(a[1], c[1])


def test_wrong_valid_sizes():
    model = build_tiny('ContextualResNet')
    x = image(2, 3, 32, 32)
    for sizes in (torch.ones(2, 2), torch.ones(2).long()):
        with pytest.raises(ValueError, match=r'integers of shape \(2, 2\)'):
            model(x, valid_sizes=sizes)


def test_a_contextual_first_stage_sees_all_classes():
    """Table 6, row c5: the same context for every image."""
    model = classifier('ContextualResNet reduce').eval()
    seen = []
    model.contextualizing.merge['0'].register_forward_hook(
        lambda _, args, out: seen.append((args[1], out))
    )
    model(image(3, 3, 64, 64))
    ((mask, context),) = seen
    assert mask is None and context.shape[0] == 1


def test_drop_without_context():
    """``drop_without_ctx`` of the released code."""
    options = dict(drop_path_rate=0.5, contextual_every=2)
    for chosen in (False, True):
        model = build_tiny(
            'ContextualConvNeXt', drop_without_context=chosen, **options
        )
        for stage in model.stages:
            for block in stage:
                contextual = isinstance(block.conv, ContextualConv2d)
                dropped = block.drop_path.drop_prob > 0
                first = block is model.stages[0][0]
                assert dropped == (not first and not (chosen and contextual))


def test_initial_values():
    """Predictors end in zeros; the rest as the spec of each network says."""
    torch.manual_seed(0)
    for name in ('ContextualConvNeXt', 'ContextualResNet'):
        model = build_tiny(name, with_class_scores=True)
        for module in model.modules():
            if isinstance(module, ContextualConv2d):
                assert not module.sampling_predictor.predict.weight.any()
                assert not module.weight_predictor.fc2.weight.any()
                assert module.sampling_predictor.reduce.bias.any()
        assert 0.01 < model.contextualizing.embedding.std() < 0.03
        head = model.contextualizing.classify['3'].fc2
        assert bool(head.bias.any()) == (name == 'ContextualResNet')
    convnext, resnet = (
        build_tiny(n) for n in ('ContextualConvNeXt', 'ContextualResNet')
    )
    assert convnext.stages[0][0].mlp.fc1.weight.std() < 0.03
    assert (
        ContextualConvNeXt(
            dict(depths=(1, 1, 1, 1), channels=(16, 16, 16, 16))
        )
        .stages[0][0]
        .gamma.eq(1e-6)
        .all()
    )
    assert not resnet.stages[0][0].expand[1].weight.any()


def test_layer_depth_of_contextualizing_layers():
    model = build_tiny(
        'ContextualConvNeXt', with_class_scores=True
    )  # depths 1, 2, 3, 1
    for key, depth in {
        'contextualizing.classify.0.fc1.weight': 1,
        'contextualizing.classify.2.fc1.weight': 6,
        'contextualizing.merge.1.fc1.weight': 2,
        'contextualizing.merge.3.norm1.bias': 7,
        'contextualizing.embedding': 1,
    }.items():
        assert model.get_layer_depth(f'b.{key}', 'b.') == (depth, 9), key


@pytest.mark.parametrize(
    'num_classes, counts',
    [(1000, (500, 200, 50)), (42, (21, 9, 3)), (1, (1, 1, 1))],
)
def test_class_counts_scale_with_the_classes(num_classes, counts):
    model = ContextualResNet(14, num_classes=num_classes)
    assert model.contextualizing.class_counts == counts


@pytest.mark.parametrize(
    'options, message',
    [
        (
            dict(num_classes=10, class_counts=(500, 9, 5)),
            r'class_counts must.*\(10\).*got \(500',
        ),
        (dict(class_counts=(5, 4)), r'three numbers.*got \(5, 4\)'),
        (dict(selection='drop'), "'rerank', 'reduce'.*got 'drop'"),
        (
            dict(selection='reduce', class_counts=(5, 9, 2)),
            'must not grow',
        ),
        (dict(contextual_stages=(4,)), r'contextual_stages.*got \(4,\)'),
        (dict(contextual_every=0), 'contextual_every must be 1 or more'),
        (dict(temperature='warm'), "temperature.*got 'warm'"),
        (dict(start_scale=0), 'start_scale must be a positive number, got 0'),
        (
            dict(with_class_scores=True, out_indices=(0, 1)),
            'needs the last stage',
        ),
        (
            dict(with_class_scores=True, scored_stages=(0, 3)),
            r'scored_stages.*\[0, 1, 2, 3\], got \(0, 3\)',
        ),
    ],
)
@pytest.mark.parametrize('network', [ContextualConvNeXt, ContextualResNet])
def test_wrong_arguments(network, options, message):
    with torch.device('meta'), pytest.raises(ValueError, match=message):
        network(**options)


def test_wrong_arch():
    with pytest.raises(ValueError, match="'tiny', 'small', 'base'.*got 'xl'"):
        ContextualConvNeXt('xl')
    with pytest.raises(ValueError, match='depth must be one of.*got 51'):
        ContextualResNet(51)
    with pytest.raises(ValueError, match="dict\\(type='LN'"):
        ContextualConvNeXt(norm_cfg=dict(type='BN'))


CARRIERS = {
    'pickle': lambda out: pickle.loads(pickle.dumps(out)),
    'copy': copy.copy,
    'deepcopy': copy.deepcopy,
    'apply_to': lambda out: apply_to(
        out, lambda x: isinstance(x, torch.Tensor), lambda x: x.cpu()
    ),
    'FeatureExtractor': lambda out: type(out)([x[1] for x in out]),
    'DataParallel': lambda out: gather_on_cpu([out, out]),
}


def gather_on_cpu(outputs):
    """DataParallel's, but for the one operator that needs GPUs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            scatter_gather.Gather, 'apply', lambda _, dim, *x: torch.cat(x)
        )
        return scatter_gather.gather(outputs, 'cpu')


@pytest.mark.parametrize('carrier', CARRIERS)
@pytest.mark.parametrize('kind', ['ContextualConvNeXt', KINDS[2]])
def test_whatever_rebuilds_the_maps_keeps_the_scores(kind, carrier):
    with torch.no_grad():
        maps = classifier(kind).eval()(image(2, 3, 64, 64))
    carried = CARRIERS[carrier](maps)
    assert type(carried) is ScoredMaps
    part = {
        'FeatureExtractor': lambda x: x[1],
        'DataParallel': lambda x: torch.cat((x, x)),
    }.get(carrier, lambda x: x)
    for name in ('maps', 'class_scores', 'considered'):
        pairs = list(zip(getattr(carried, name), getattr(maps, name)))
        assert len(pairs) == 4
        for a, b in pairs:
            assert a is b is None or torch.equal(a, part(b)), name


def test_feature_extractor_of_mmpretrain():
    """Of a classifier from the zoo, built tiny."""
    from mmpretrain import FeatureExtractor

    tiny = {k: v for k, v in TINY[KINDS[0]].items() if k != 'num_classes'}
    model = get_model('ctx_convnext_tiny', num_classes=12, **tiny).eval()
    model._config = Config(
        dict(test_dataloader=dict(dataset=dict(pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='ResizeEdge', scale=64),
            dict(type='CenterCrop', crop_size=64),
            dict(type='PackInputs'),
        ])))
    )  # fmt: skip
    extract = FeatureExtractor(model, pretrained=False)
    (features,) = extract(np.zeros((80, 90, 3), np.uint8), stage='backbone')
    assert [tuple(m.shape) for m in features.class_scores] == [(12,)] * 4
