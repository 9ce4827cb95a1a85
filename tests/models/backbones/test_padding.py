"""Batches whose images are padded with zeros, as detectors pad them."""

from pathlib import Path

import mmdet
import pytest
import torch

from tests.helpers.backbones import TINY, build_tiny
from tests.helpers.parity import fill_tensor


def make_batch():
    """The same images whole, and with padding below and on the right."""
    images = torch.randn(2, 3, 128, 160)
    padded = images.clone()
    padded[0, :, :, 96:] = 0
    padded[1, :, 64:] = 0
    return images, padded


def gradient_norm(net, images):
    torch.manual_seed(1)
    maps = net(images)
    loss = sum((x * torch.randn_like(x)).mean() for x in maps)
    net.zero_grad()
    loss.backward()
    grads = (p.grad for p in net.parameters() if p.grad is not None)
    return sum(g.square().sum() for g in grads).sqrt()


@pytest.mark.parametrize('start', ['scratch', 'as trained'])
@pytest.mark.parametrize('name', TINY)
def test_padding_does_not_multiply_gradients(name, start):
    """Norms of zeros, one behind the other, amplify by 1 / sqrt(eps) each."""
    net = build_tiny(name).train()
    if start == 'as trained':  # with the weights of the parity fixtures
        state = {
            key: fill_tensor(key, x.shape, str(x.dtype).split('.')[1])
            for key, x in net.state_dict().items()
            if x.is_floating_point()
        }
        net.load_state_dict(state, strict=False)
    images, padded = make_batch()
    whole = gradient_norm(net, images)
    assert 0.1 * whole < gradient_norm(net, padded) < 10 * whole


def test_padding_multiplies_gradients_of_a_stock_convnext():
    """So the test above can fail; the contextual one starts otherwise."""
    from mmpretrain.models import ConvNeXt

    arch = dict(depths=[1, 1, 1, 1], channels=[16, 32, 64, 128])
    net = ConvNeXt(arch, out_indices=(0, 1, 2, 3), gap_before_final_norm=False)
    net.init_weights()
    images, padded = make_batch()
    whole = gradient_norm(net, images)
    assert gradient_norm(net, padded) > 1e4 * whole


def test_a_retinanet_trains_on_padded_images():
    """On a ConTNet from scratch it had NaN in the second step."""
    from mmdet.registry import MODELS
    from mmdet.testing import demo_mm_inputs
    from mmengine.config import Config
    from mmengine.registry import DefaultScope

    folder = Path(mmdet.__file__).parent / '.mim/configs'
    cfg = Config.fromfile(folder / 'retinanet/retinanet_r50_fpn_1x_coco.py')
    cfg.model.backbone = dict(type='ConTNet', **TINY['ConTNet'])
    channels = build_tiny('ConTNet').out_channels
    cfg.model.neck.update(in_channels=list(channels), out_channels=32)
    cfg.model.bbox_head.update(in_channels=32, feat_channels=32)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(cfg.model)
        model.init_weights()
        data = demo_mm_inputs(
            2, image_shapes=[(3, 96, 160), (3, 160, 90)], num_items=[2, 2]
        )
        data = model.data_preprocessor(data, True)
        optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
        losses = []
        for _ in range(50):
            loss, _ = model.parse_losses(model(**data, mode='loss'))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
