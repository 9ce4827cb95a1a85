"""A classifier that needs class tokens only."""

from typing import Union

from mmpretrain.models import ImageClassifier
from torch import Tensor


class ClassTokenClassifier(ImageClassifier):
    """Image classifier on the class tokens of CoaT.

    The result is that of an ``ImageClassifier`` with the same backbone and
    head. What the last block would do with pixels, which the head does not
    read, is left out: 2 to 9 % of all multiply-adds.

    Args:
        backbone (dict): A ``CoaT`` with ``with_cls_token=True``.
        head (dict): A ``CoaTClsHead``.
        **kwargs: See mmpretrain's ``ImageClassifier``; there is no neck.

    Raises:
        ValueError: A neck is given.
    """

    def __init__(self, backbone: dict, head: dict, **kwargs) -> None:
        if kwargs.get('neck') is not None:
            raise ValueError(
                'ClassTokenClassifier hands class tokens from the backbone '
                f'to the head and takes no neck, got {kwargs["neck"]!r}. '
                'Leave it out.'
            )
        super().__init__(backbone, head=head, **kwargs)

    def extract_feat(
        self, inputs: Tensor, stage: str = 'neck'
    ) -> Union[tuple[Tensor, ...], Tensor]:
        """Features of images (N, C, H, W).

        Args:
            inputs (Tensor): The images.
            stage (str): 'backbone' for all maps of the backbone, 'neck' for
                its class tokens, as the head takes them, 'pre_logits' for
                the vector (N, C) that is classified.
        """
        if stage not in ('neck', 'pre_logits'):
            return super().extract_feat(inputs, stage)
        tokens = self.backbone(inputs, with_maps=False)
        return tokens if stage == 'neck' else self.head.pre_logits(tokens)
