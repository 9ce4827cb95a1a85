"""Votes of the nearest neighbours, against scikit-learn's."""

import numpy as np
import pytest
import torch

from mmctx.models.heads import NearestNeighborsHead


def clusters(count, seed):
    """Features of three noisy directions of any length, and which one."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (count,), generator=generator)
    noise = torch.randn(count, 8, generator=generator)
    lengths = 0.1 + 5 * torch.rand(count, 1, generator=generator)
    return lengths * (torch.eye(3, 8)[labels] + 0.6 * noise), labels


@pytest.mark.parametrize('k, temperature', [(10, 0.07), (1, 0.07), (5, 1.0)])
def test_votes_are_those_of_brute_force(k, temperature):
    neighbors = pytest.importorskip('sklearn.neighbors')
    features, labels = clusters(60, seed=0)
    queries, truth = clusters(40, seed=1)
    head = NearestNeighborsHead(num_classes=4, k=k, temperature=temperature)
    head.remember(features, labels)
    shares = head(queries)
    brute = neighbors.KNeighborsClassifier(
        k,
        metric='cosine',
        algorithm='brute',
        weights=lambda distances: np.exp((1 - distances) / temperature),
    ).fit(features.double(), labels)
    expected = torch.from_numpy(brute.predict_proba(queries.double()))
    torch.testing.assert_close(
        shares[:, :3].double(), expected, rtol=1e-4, atol=1e-5
    )
    assert not shares[:, 3].any()
    correct = (shares.argmax(1) == truth).double().mean()
    assert correct == brute.score(queries.double(), truth) > 0.5


def test_fewer_features_than_neighbours():
    head = NearestNeighborsHead(num_classes=2, k=10, temperature=1.0)
    head.remember(torch.eye(2), torch.tensor([0, 1]))
    votes = torch.tensor([[1.0, 0.0]]).exp()
    torch.testing.assert_close(
        head(torch.tensor([[3.0, 0.0]])), votes / votes.sum()
    )


def test_an_empty_bank_is_an_error():
    with pytest.raises(RuntimeError, match='FeatureBank'):
        NearestNeighborsHead(num_classes=2)(torch.eye(2))


def test_a_checkpoint_has_no_bank():
    head = NearestNeighborsHead(num_classes=2)
    head.remember(torch.eye(2), torch.tensor([0, 1]))
    assert not head.state_dict()
