"""What CoaT has beyond the contract of all backbones."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmpretrain import FeatureExtractor

import mmctx
from mmctx import get_backbone, get_model
from mmctx.checkpoints import convert_state_dict, load_backbone
from mmctx.models.backbones.coat import TokenMaps, Tokens
from mmctx.models.layers.stochastic_depth import StochasticDepth
from mmctx.ops import reference
from mmctx.zoo import get_spec
from tests.helpers.backbones import TINY, build_tiny
from tests.helpers.scripts import load_script

get_flops = load_script('tools/analysis_tools/get_flops.py')

#: Billions of multiply-adds at 224 x 224, Table 2 of the paper.
PAPER = {
    'coat_lite_tiny': 1.6,
    'coat_lite_mini': 2.0,
    'coat_lite_small': 4.0,
    'coat_lite_medium': 9.8,
    'coat_tiny': 4.4,
    'coat_mini': 6.8,
    'coat_small': 12.6,
}
KINDS = ('CoaT', 'CoaT parallel')


def tiny_classifier(kind, **kwargs):
    arch = TINY[kind]['arch']
    name = 'coat_tiny' if arch.get('parallel_depth') else 'coat_lite_tiny'
    return get_model(name, num_classes=5, arch=arch, **kwargs)


@pytest.mark.parametrize('name', sorted(PAPER))
def test_multiply_adds_as_published(name):
    with torch.device('meta'):
        model = get_model(name).eval().requires_grad_(False)
    x = torch.empty(1, 3, 224, 224, device='meta')
    counts = get_flops.count_multiply_adds(lambda: model(x))
    assert counts['Global'] / 1e9 == pytest.approx(PAPER[name], rel=0.03)


def resize_timm(model, height, width):
    """No weight depends on the size that timm's network checks."""
    for k, stride in enumerate((4, 8, 16, 32), start=1):
        embedding = getattr(model, f'patch_embed{k}')
        embedding.strict_img_size = False
        embedding.grid_size = height // stride, width // stride


@pytest.mark.parametrize(
    'name',
    ['coat_lite_tiny', 'coat_lite_small', 'coat_lite_medium', 'coat_mini'],
)
def test_timm_weights_give_timm_logits(name):
    timm = pytest.importorskip('timm')
    torch.manual_seed(0)
    theirs = timm.create_model(name).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    ours = get_model(name).eval()
    state = convert_state_dict(theirs.state_dict(), name)
    ours.load_state_dict(state, strict=True)
    for size in ((64, 64), (224, 160)):
        resize_timm(theirs, *size)
        x = torch.randn(1, 3, *size)
        with torch.no_grad():
            a, b = ours(x), theirs(x)
        assert (a - b).abs().max() / b.abs().max() < 1e-5


@pytest.mark.parametrize('kind', KINDS)
def test_classifier_uses_every_parameter(kind):
    model = tiny_classifier(kind).train()
    x = torch.randn(2, 3, 64, 96)
    model(x).square().sum().backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().sum() > 0, key
    out = model.eval().backbone(x)
    maps = out.maps
    assert len(maps) == 4
    dense = build_tiny(kind).eval()
    dense.load_state_dict(model.backbone.state_dict(), strict=True)
    assert all(torch.equal(a, b) for a, b in zip(maps, dense(x)))


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('out_indices', [3, (0, 1, 2, 3)])
def test_class_tokens_follow_the_feature_maps(kind, out_indices):
    model = build_tiny(kind, with_cls_token=True, out_indices=out_indices)
    out = model.eval()(torch.randn(2, 3, 64, 64))
    assert type(out) is TokenMaps
    assert out == (*out.maps, *out.cls_tokens)
    assert len(out.maps) == len(model.out_indices)
    assert len(out.cls_tokens) == (3 if 'parallel' in kind else 1)
    channels = model.out_channels[-1]
    assert all(t.shape == (2, channels) for t in out.cls_tokens)
    one = type(out)([x[0] for x in out])
    assert [t.shape for t in one.cls_tokens] == [(channels,)] * len(
        out.cls_tokens
    )


def test_feature_extractor():
    """Of mmpretrain, on all stages that extract_feat knows."""
    model = get_model('coat_lite_tiny', out_indices=(0, 1, 2, 3)).eval()
    model._config = Config(dict(model={}, test_dataloader=dict(
        dataset=dict(pipeline=[dict(type='PackInputs')])
    )))  # fmt: skip
    extractor = FeatureExtractor(model)
    image = np.zeros((64, 64, 3), dtype=np.uint8)
    for stage in ('backbone', 'neck'):
        (features,) = extractor(image, stage=stage)
        assert type(features) is TokenMaps
        assert [len(m) for m in features.maps] == [64, 128, 256, 320]
        assert [t.shape for t in features.cls_tokens] == [(320,)]
    (vector,) = extractor(image, stage='pre_logits')
    assert vector.shape == (320,)


def test_reads_like_its_paper():
    """Functions of ours that an image passes, in reference mode."""
    model = get_backbone('coat_small').eval()
    package = str(Path(mmctx.__file__).parent)
    codes = set()

    def profile(frame, event, _):
        if event == 'call' and frame.f_code.co_filename.startswith(package):
            codes.add(frame.f_code)

    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad(), reference():
        sys.setprofile(profile)
        try:
            model(x)
        finally:
            sys.setprofile(None)
    assert 10 < len(codes) <= 25
    assert len({code.co_filename for code in codes}) <= 5


@pytest.mark.parametrize('kind', KINDS)
def test_classifier_compiles(kind):
    torch._dynamo.reset()
    model = tiny_classifier(kind).eval()
    compiled = torch.compile(model, fullgraph=True, backend='eager')
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), model(x))


def test_last_stage_freezes_with_the_parallel_blocks():
    frozen = build_tiny('CoaT parallel', frozen_stages=4).train()
    assert not any(p.requires_grad for p in frozen.parameters())
    assert not any(m.training for m in frozen.parallel.modules())
    free = build_tiny('CoaT parallel', frozen_stages=3).train()
    assert all(p.requires_grad for p in free.parallel.parameters())


def test_head_asks_for_class_tokens():
    model = tiny_classifier('CoaT', with_cls_token=False)
    x = torch.randn(1, 3, 32, 32)
    with pytest.raises(ValueError, match='with_cls_token=True'):
        model.head(model.backbone(x))
    with pytest.raises(ValueError, match='with_cls_token=True'):
        model(x)


@pytest.mark.parametrize('kind', KINDS)
def test_stochastic_depth_is_the_same_for_every_block(kind):
    model = build_tiny(kind, drop_path_rate=0.5)
    rates = [m.drop_prob for m in model.modules() if hasattr(m, 'drop_prob')]
    # Two branches in each block, and three scales of the second.
    assert rates == [0.5] * (12 if kind == 'CoaT' else 16)


def test_a_dropped_branch_takes_the_class_token_along():
    torch.manual_seed(0)
    x, token = torch.rand(64, 3, 2, 2), torch.rand(64, 1, 3)
    ones = torch.ones_like(x), torch.ones_like(token)
    keep = StochasticDepth(0.5)(x)
    out = Tokens(x, token).plus(ones, keep)
    kept = (out.map - x)[:, 0, 0, 0].round()
    assert set(kept.tolist()) == {0.0, 2.0}
    torch.testing.assert_close(
        out.map - x, kept.view(-1, 1, 1, 1).expand_as(x)
    )
    torch.testing.assert_close(
        out.token - token, kept.view(-1, 1, 1).expand_as(token)
    )
    for a, b in zip(Tokens(x, token).plus(ones), (x + 1, token + 1)):
        assert torch.equal(a, b)


@pytest.mark.parametrize('out_indices', [1, (0, 1, 2, 3)])
def test_every_module_of_cross_attention_is_called(out_indices):
    model = build_tiny(
        'CoaT parallel', co_scale='cross_attention', out_indices=out_indices
    )
    containers = torch.nn.ModuleList, torch.nn.ModuleDict
    silent = {m for m in model.modules() if not isinstance(m, containers)}
    for module in model.modules():
        module.register_forward_hook(lambda m, *args: silent.discard(m))
    model(torch.randn(1, 3, 32, 32))
    assert not silent


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_detection_size_under_autocast(dtype):
    model = get_backbone('coat_lite_tiny').eval()
    with torch.no_grad(), torch.autocast('cpu', dtype=dtype):
        maps = model(torch.randn(1, 3, 800, 1333))
    assert all(m.isfinite().all() for m in maps)


def count(**options):
    with torch.device('meta'):
        backbone = get_backbone(**options)
    return sum(p.numel() for p in backbone.parameters())


def test_position_encodings_can_be_left_out():
    """Table 6."""
    name = 'coat_lite_tiny'
    off = dict(position_encoding=False)
    relative_off = dict(relative_position_encoding=False)
    full = count(name=name)
    assert full - count(name=name, **off) == 7680
    assert full - count(name=name, **relative_off) == 23808
    assert full - count(name=name, **off, **relative_off) == 31488
    x = torch.randn(1, 3, 64, 64)
    for options in (off, relative_off, {**off, **relative_off}):
        model = build_tiny('CoaT', **options)
        sum(m.sum() for m in model(x)).backward()
        assert all(p.grad is not None for p in model.parameters())
    # Without any, a permutation of patches permutes the first map.
    model = build_tiny('CoaT', **off, **relative_off, out_indices=0).eval()
    flipped = x.unflatten(2, (16, 4)).flip(2).flatten(2, 3)
    torch.testing.assert_close(
        model(flipped)[0], model(x)[0].flip(2), rtol=1e-4, atol=1e-5
    )


def test_co_scale_options():
    """Table 7: one set of weights, three exchanges."""
    sizes = {
        count(name='coat_tiny', co_scale=c)
        for c in ('interpolation', 'none', 'cross_attention')
    }
    assert len(sizes) == 1
    full = build_tiny('CoaT parallel').eval()
    x = torch.randn(2, 3, 64, 96)
    maps = {}
    for co_scale in ('interpolation', 'none', 'cross_attention'):
        model = build_tiny('CoaT parallel', co_scale=co_scale).eval()
        model.load_state_dict(full.state_dict(), strict=True)
        maps[co_scale] = model(x)
        assert torch.equal(maps[co_scale][0], full(x)[0])
    for i in (1, 2, 3):
        a, b, c = (m[i] for m in maps.values())
        assert not torch.allclose(a, b) and not torch.allclose(a, c)
        assert not torch.allclose(b, c)


def test_no_co_scale_keeps_scales_apart():
    model = build_tiny('CoaT parallel', co_scale='none').eval()
    x = torch.randn(1, 3, 64, 64)
    before = model(x)
    for block in model.parallel:
        block.attention['4'].proj.bias.data.add_(1)
    after = model(x)
    assert all(torch.equal(a, b) for a, b in zip(before[:3], after[:3]))
    assert not torch.allclose(before[3], after[3])


@pytest.mark.parametrize('co_scale', ['none', 'cross_attention'])
@pytest.mark.parametrize('out_indices', [0, 1, 2, 3, (1, 3), (0, 1, 2, 3)])
def test_outputs_of_ablations(co_scale, out_indices):
    """As in the contract: those of the full network, nothing unused."""
    options = dict(co_scale=co_scale)
    model = build_tiny('CoaT parallel', out_indices=out_indices, **options)
    full = build_tiny('CoaT parallel', **options)
    _, unexpected = full.load_state_dict(model.state_dict(), strict=False)
    assert not unexpected
    x = torch.randn(2, 3, 64, 64)
    maps = model(x)
    for i, m in zip(model.out_indices, maps):
        torch.testing.assert_close(m, full(x)[i])
    sum(m.square().sum() for m in maps).backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize('out_indices', [0, 1, (1, 2), 3])
def test_partial_network_loads_a_whole_checkpoint(tmp_path, out_indices):
    full = build_tiny('CoaT parallel')
    torch.save(full.state_dict(), tmp_path / 'a.pth')
    model = build_tiny('CoaT parallel', out_indices=out_indices)
    load_backbone(model, str(tmp_path / 'a.pth'))
    state = full.state_dict()
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(arch='lite'), "arch must be one of.*got 'lite'"),
        (dict(arch=dict(embed_dims=(8,))), 'four values'),
        (
            dict(arch=dict(TINY['CoaT']['arch'], depth=3)),
            'arch must be one of',
        ),
        (
            dict(arch=dict(TINY['CoaT']['arch'], parallel_depth=1)),
            'equal embed_dims in the last three',
        ),
        (
            dict(arch=dict(TINY['CoaT']['arch'], serial_depths=(0, 1, 1, 1))),
            'serial_depths must be positive',
        ),
        (dict(co_scale='sum'), "co_scale must be one of.*got 'sum'"),
        (dict(norm_cfg=dict(type='BN')), "type='LN'"),
        (dict(with_cls_token=True, out_indices=1), 'needs the last stage'),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        build_tiny('CoaT', **options)


def test_tasks():
    assert 'instance segmentation' in get_spec('coat_small').tasks
