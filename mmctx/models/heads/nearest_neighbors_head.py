"""Nearest-neighbour classification."""

from typing import Optional

import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from mmctx.registry import MODELS, register


@register(MODELS)
class NearestNeighborsHead(nn.Module):
    """Weighted k-nearest-neighbour classifier.

    The k remembered features of the largest cosine similarity s vote for
    their classes with weight exp(s / temperature).

    Source: `Unsupervised Feature Learning via Non-Parametric Instance
    Discrimination <https://arxiv.org/abs/1805.01978>`_, Sec. 3.4; so used by
    `DINO <https://arxiv.org/abs/2104.14294>`_, Sec. 4.1.

    Args:
        num_classes (int): Number of classes.
        k (int): Number of neighbours that vote, or all if fewer are
            remembered. Defaults to 10.
        temperature (float): Temperature of the weights. Defaults to 0.07.
    """

    def __init__(
        self, num_classes: int, k: int = 10, temperature: float = 0.07
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.k = k
        self.temperature = temperature
        # Not buffers: a checkpoint does not hold the bank.
        self.features: Optional[Tensor] = None
        self.labels: Optional[Tensor] = None

    def remember(self, features: Tensor, labels: Tensor) -> None:
        """Replace the bank: features (M, C), classes (M,)."""
        self.features = F.normalize(features.float(), dim=-1)
        self.labels = labels

    def forward(self, features: Tensor) -> Tensor:
        """Vote shares (N, num_classes) for features (N, C).

        Raises:
            RuntimeError: The bank is empty.
        """
        if self.features is None:
            raise RuntimeError(
                'The nearest-neighbour classifier has no features to compare '
                "with. Add dict(type='FeatureBank', dataset=...) to "
                'custom_hooks; it fills the bank before each evaluation.'
            )
        queries = F.normalize(features.float(), dim=-1)
        similarity = queries @ self.features.T
        nearest = similarity.topk(min(self.k, len(self.labels)))
        weights = (nearest.values / self.temperature).softmax(-1)
        shares = weights.new_zeros(len(queries), self.num_classes)
        return shares.scatter_add_(1, self.labels[nearest.indices], weights)

    def predict(self, features: Tensor, data_samples: list) -> list:
        """Data samples of mmpretrain with scores and labels set."""
        shares = self(features)
        for sample, score, label in zip(
            data_samples, shares, shares.argmax(1)
        ):
            sample.set_pred_score(score).set_pred_label(label)
        return data_samples
