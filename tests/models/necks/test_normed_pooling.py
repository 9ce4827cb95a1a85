import torch
from mmengine.registry import MODELS
from torch import nn

from mmctx import NormedPooling


def test_normalises_and_averages_the_last_map():
    neck = MODELS.build(dict(type='NormedPooling', in_channels=5))
    maps = (torch.rand(4, 3, 6, 6), 2 * torch.randn(4, 5, 3, 7) + 1)
    (out,) = neck.train()(maps)
    assert out.shape == (4, 5)
    # Unit variance and no mean, over images and pixels together.
    expected = nn.functional.batch_norm(maps[1], None, None, training=True)
    torch.testing.assert_close(out, expected.mean((2, 3)))
    (out,) = neck.eval()(maps)
    assert not torch.allclose(out, expected.mean((2, 3)))
    torch.testing.assert_close(out, neck.norm(maps[1]).flatten(2).mean(2))


def test_norm_can_be_chosen():
    neck = NormedPooling(6, norm_cfg=dict(type='GN', num_groups=2))
    assert isinstance(neck.norm, nn.GroupNorm)
