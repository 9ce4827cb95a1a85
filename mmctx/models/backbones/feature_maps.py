"""Feature maps with further tensors, such as class tokens, behind them."""

from torch import Tensor


class FeatureMaps(tuple):
    """Feature maps, then whatever else a backbone found in the images.

    Its elements are all that it holds, so that whatever rebuilds a tuple from
    its elements keeps them: copies, pickles, DataParallel's gather, mmengine's
    ``apply_to``, mmpretrain's ``FeatureExtractor``. Feature maps have two
    dimensions more than the rest, (N, C, H, W) beside (N, C), those of a
    single image as well.

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
        """The tensors behind the feature maps."""
        return tuple(x for x in self if x.ndim != self._map_dims())

    def _map_dims(self) -> int:
        return max(x.ndim for x in self)
