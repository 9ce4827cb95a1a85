"""Contextual networks that start from plain ConvNeXts and ResNets."""

import re

import pytest
import torch

from mmctx import get_backbone
from mmctx.checkpoints import (
    RELEASED,
    CheckpointError,
    convert_state_dict,
    examine,
    load_backbone,
    recognise,
)

timm = pytest.importorskip('timm')
torchvision = pytest.importorskip('torchvision')


def filled(model):
    """Weights that show a swapped pair: none is a zero, one or mean."""
    torch.manual_seed(0)
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if value.dim() == 1:
                value.uniform_(0.5, 1.5)
            if key.endswith('bias'):
                value.uniform_(-0.5, 0.5)
    return model.eval()


def as_the_authors(state):
    """timm's ConvNeXt in the names of its authors."""
    renamed = {}
    for key, value in state.items():
        key = re.sub(r'^stem\.', 'downsample_layers.0.', key)
        key = re.sub(
            r'^stages\.(\d)\.downsample\.', r'downsample_layers.\1.', key
        )
        key = key.replace('.blocks.', '.').replace('conv_dw', 'dwconv')
        key = key.replace('mlp.fc', 'pwconv').replace('head.norm', 'norm')
        renamed[key.replace('head.fc', 'head')] = value
    return renamed


def of_mmpretrain(name):
    mmpretrain = pytest.importorskip('mmpretrain')
    return filled(mmpretrain.get_model(name))


@pytest.fixture(scope='module')
def convnext():
    return filled(timm.create_model('convnext_tiny'))


@pytest.fixture(scope='module')
def resnet():
    return filled(timm.create_model('resnet50'))


def start(state, name, tmp_path, **options):
    path = tmp_path / 'plain.pth'
    torch.save(state, path)
    assert recognise(state) == name
    cfg = dict(type='Pretrained', checkpoint=str(path))
    model = get_backbone(name, init_cfg=cfg, **options)
    model.init_weights()
    return model.eval()


def check_maps(model, expected):
    """A network without contextual stages is the plain one."""
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for found, wanted in zip(model(x), expected(x)):
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def maps_of_timm(model):
    return lambda x: model.forward_intermediates(
        x, indices=4, intermediates_only=True, norm=False
    )[-4:]


@pytest.mark.parametrize('wrapped', [False, True])
def test_convnext_of_timm_and_of_its_authors(convnext, wrapped, tmp_path):
    state = convnext.state_dict()
    if wrapped:
        state = {'model': as_the_authors(state)}
        assert 'downsample_layers.3.1.bias' in state['model']
    plain = dict(contextual_stages=())
    path = tmp_path / 'plain.pth'
    torch.save(state, path)
    model = get_backbone('ctx_convnext_tiny', **plain).eval()
    load_backbone(model, str(path))
    check_maps(model, maps_of_timm(convnext))


def test_convnext_of_torchvision(tmp_path):
    plain = filled(torchvision.models.convnext_tiny())
    assert plain.features[1][0].layer_scale.dim() == 3
    model = start(
        plain.state_dict(),
        'ctx_convnext_tiny',
        tmp_path,
        contextual_stages=(),
    )

    def maps(x):
        for i, layer in enumerate(plain.features):
            x = layer(x)
            if i % 2:
                yield x

    check_maps(model, maps)


def test_convnext_of_mmpretrain(tmp_path):
    plain = of_mmpretrain('convnext-tiny_32xb128_in1k')
    model = start(
        plain.state_dict(),
        'ctx_convnext_tiny',
        tmp_path,
        contextual_stages=(),
    )
    backbone = plain.backbone

    def maps(x):
        for down, stage in zip(backbone.downsample_layers, backbone.stages):
            x = stage(down(x))
            yield x

    check_maps(model, maps)


@pytest.mark.parametrize('source', ['timm', 'mmpretrain'])
def test_resnet(resnet, source, tmp_path):
    if source == 'timm':  # torchvision has the same names
        state, maps = resnet.state_dict(), maps_of_timm(resnet)
        assert {*state} == {*torchvision.models.resnet50().state_dict()}
    else:
        plain = of_mmpretrain('resnet50_8xb32_in1k')
        state, maps = plain.state_dict(), None
        plain.backbone.out_indices = (0, 1, 2, 3)
        maps = plain.backbone
    model = start(state, 'ctx_resnet50', tmp_path, contextual_stages=())
    check_maps(model, maps)


def test_what_a_plain_network_lacks_keeps_its_initial_values(resnet, tmp_path):
    state = resnet.state_dict()
    model = start(state, 'ctx_resnet50', tmp_path)
    conv = model.stages[1][0].operator[0]
    assert torch.equal(conv.weight, state['layer2.0.conv2.weight'])
    assert not conv.sampling_predictor.predict.weight.any()
    conversion = examine(state, 'ctx_resnet50')
    assert conversion.dropped == ['fc.weight', 'fc.bias']
    assert not conversion.complaints()
    fresh = {k.split('.')[1] for k in conversion.initial}
    assert fresh == {'stages', 'contextualizing'}
    assert not {*conversion.initial} & {*conversion.state_dict}


def test_half_a_contextual_network_is_no_plain_one(resnet, tmp_path):
    """Either all that is contextual is in a file, or nothing."""
    model = get_backbone('ctx_resnet50')
    state = {
        k: v
        for k, v in model.state_dict().items()
        if 'weight_predictor' not in k
    }
    path = tmp_path / 'half.pth'
    torch.save(state, path)
    with pytest.raises(CheckpointError, match='file lacks.*predictor'):
        load_backbone(model, str(path))
    key = 'layer2.0.conv2.spatial_offset_layer.0.bias'
    with pytest.raises(CheckpointError, match='tensors that the file lacks'):
        convert_state_dict(
            {**resnet.state_dict(), key: torch.zeros(32)}, 'ctx_resnet50'
        )


def test_known_files():
    """There are no trained networks of the family, only starting weights."""
    release = RELEASED['resnet50_a1_in1k']
    assert release.url.endswith(f'-{release.sha256}.pth')
    assert release.model == 'ctx_resnet50'
    assert not [name for name in RELEASED if name.startswith('ctx')]
    with pytest.raises(CheckpointError, match="No weights of 'ctx_resnet50'"):
        get_backbone('ctx_resnet50', pretrained=True)
