import copy
import pickle

import pytest
import torch
from mmengine.utils import apply_to
from torch.nn.parallel import scatter_gather

from mmctx.models.backbones.feature_maps import FeatureMaps


class Named(FeatureMaps):
    scores = FeatureMaps.extras


def example(count=2):
    maps = torch.rand(2, 8, 4, 4), torch.rand(2, 16, 2, 2)
    return Named((*maps, *torch.rand(count, 2, 5)))


def equal(one, other):
    assert type(one) is type(other) and len(one) == len(other)
    return all(torch.equal(a, b) for a, b in zip(one, other))


REBUILT = {
    'copy': copy.copy,
    'deepcopy': copy.deepcopy,
    'pickle': lambda out: pickle.loads(pickle.dumps(out)),
    'apply_to': lambda out: apply_to(
        out, lambda x: isinstance(x, torch.Tensor), lambda x: x.clone()
    ),
    'elements': lambda out: type(out)(list(out)),
}


@pytest.mark.parametrize('way', REBUILT)
def test_survives(way):
    out = example()
    rebuilt = REBUILT[way](out)
    assert equal(rebuilt, out)
    assert all(a.shape == b.shape for a, b in zip(rebuilt.maps, out[:2]))
    assert all(torch.equal(a, b) for a, b in zip(rebuilt.scores, out[2:]))


def test_parts():
    out = example()
    assert out.maps == out[:2]
    assert out.extras == out.scores == out[2:]
    assert example(0).extras == ()
    assert FeatureMaps().maps == FeatureMaps().extras == ()


def test_gathered_by_data_parallel(monkeypatch):
    monkeypatch.setattr(
        scatter_gather.Gather, 'apply', lambda _, dim, *x: torch.cat(x, dim)
    )
    out = example()
    gathered = scatter_gather.gather([out, out], 'cuda:0')
    assert equal(gathered, Named(torch.cat((x, x)) for x in out))
    assert len(gathered.scores) == 2


def test_of_a_single_image():
    """As mmpretrain's FeatureExtractor takes it out of a batch."""
    out = example()
    one = type(out)([x[1] for x in out])
    assert [x.ndim for x in one.maps] == [3, 3]
    assert [x.ndim for x in one.scores] == [1, 1]


def test_compiles():
    @torch.compile(fullgraph=True, backend='eager')
    def norms(out):
        out = Named((out[0] + 1, out[1]))
        return out.maps[0].sum(), out.scores[0].sum()

    x, token = torch.rand(1, 2, 3, 3), torch.rand(1, 2)
    assert norms((x, token)) == ((x + 1).sum(), token.sum())
