"""Feature maps followed by further tensors, such as class tokens."""

from torch import Tensor


class FeatureMaps(tuple):
    """Feature maps, followed by further outputs of a backbone.

    It holds nothing but its elements, so whatever rebuilds a tuple from them
    is lossless: copies, pickles, DataParallel's gather, mmengine's
    ``apply_to``, mmpretrain's ``FeatureExtractor``. Feature maps have two more
    dimensions than the rest, (N, C, H, W) against (N, C), also for a single
    image.

    Example:
        >>> tokens = torch.rand(2, 8)
        >>> out = FeatureMaps((torch.rand(2, 8, 7, 7), tokens))
        >>> len(out.maps), out.extras[0] is tokens
        (1, True)
    """

    @property
    def maps(self) -> tuple[Tensor, ...]:
        """The feature maps, (N, C, H, W) each."""
        return tuple(x for x in self if x.ndim == self._map_dims())

    @property
    def extras(self) -> tuple[Tensor, ...]:
        """The tensors after the feature maps."""
        return tuple(x for x in self if x.ndim != self._map_dims())

    def _map_dims(self) -> int:
        return max(x.ndim for x in self)
