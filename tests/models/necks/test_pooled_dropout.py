import pytest
import torch
from mmengine.registry import MODELS

from mmctx import PooledDropout


def test_pools_and_drops_in_training_only():
    neck = MODELS.build(dict(type='PooledDropout', drop_rate=0.25))
    maps = (torch.rand(4, 500, 3, 5) + 1,)
    means = maps[0].mean(dim=(2, 3))
    neck.eval()
    torch.testing.assert_close(neck(maps)[0], means)
    neck.train()
    out = neck(maps)[0]
    dropped = out == 0
    assert 0.15 < dropped.float().mean() < 0.35
    torch.testing.assert_close(out[~dropped], means[~dropped] / 0.75)


@pytest.mark.parametrize('rate', [-0.1, 1, 25])
def test_refuses_what_is_no_rate(rate):
    with pytest.raises(ValueError, match=r'\[0, 1\), got'):
        PooledDropout(drop_rate=rate)
