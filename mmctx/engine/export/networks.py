"""Backbones, classifiers and segmentors, and the choice among all kinds."""

import copy
from typing import Optional

import torch
import torch.nn.functional as F
from mmengine.model import revert_sync_batchnorm
from torch import Tensor, nn

from .network import Network, Pixels, Refusal

__all__ = ['TASKS', 'Refusal', 'build']

TASKS = (
    'feature maps',
    'classification',
    'semantic segmentation',
    'detection',
    'instance segmentation',
)


class Backbone(Network):
    """A backbone alone."""

    task = 'feature maps'

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        with torch.no_grad():
            count = len(backbone(torch.zeros(1, 3, 64, 64)))
        self.outputs = tuple(f'map{i}' for i in range(count))

    def run(self, x: Tensor) -> tuple[Tensor, ...]:
        """Images to feature maps, and what else the backbone returns."""
        return tuple(self.backbone(self.cast(x)))


class Classifier(Network):
    """A classifier of mmpretrain, to probabilities (N, classes)."""

    task = 'classification'
    outputs = ('scores',)

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        from mmpretrain.models.heads import ClsHead

        head = classifier.head
        if (
            not isinstance(head, ClsHead)
            or type(head)._get_predictions is not ClsHead._get_predictions
        ):
            raise Refusal(f'a classifier with {type(head).__name__}')
        self.classifier = classifier

    def run(self, x: Tensor) -> tuple[Tensor, ...]:
        """Images to probabilities."""
        feats = self.classifier.extract_feat(self.cast(x))
        return (self.classifier.head(feats).float().softmax(1),)


class Segmentor(Network):
    """A segmentor of mmsegmentation.

    Logits (N, classes, H, W), and labels (N, H, W).
    """

    task = 'semantic segmentation'
    outputs = ('logits', 'labels')

    def __init__(self, segmentor: nn.Module) -> None:
        super().__init__()
        from mmseg.models.segmentors import EncoderDecoder

        if type(segmentor) is not EncoderDecoder:
            raise Refusal(type(segmentor).__name__)
        if segmentor.decode_head.out_channels == 1:
            raise Refusal('a segmentor with a single output channel')
        self.segmentor = segmentor

    def run(self, x: Tensor) -> tuple[Tensor, ...]:
        """Images to logits and labels."""
        head = self.segmentor.decode_head
        logits = head(self.segmentor.extract_feat(self.cast(x))).float()
        logits = F.interpolate(
            logits,
            x.shape[2:],
            mode='bilinear',
            align_corners=self.segmentor.align_corners,
        )
        return logits, logits.argmax(1)


def build(
    model: nn.Module,
    half: bool = False,
    pixels: Optional[dict] = None,
) -> Network:
    """A model as exporters take it.

    Args:
        model (nn.Module): A backbone, or a model of mmpretrain, mmdet or
            mmsegmentation. It is copied.
        half (bool): Compute in float16. Defaults to False.
        pixels (dict, optional): Arguments of :class:`Pixels`; the network
            then takes pixels instead of normalised images.

    Raises:
        Refusal: It, or a part of it, cannot be exported.
    """
    model = revert_sync_batchnorm(copy.deepcopy(model))
    network = _kind(model)(model).eval().requires_grad_(False)
    if half:
        network.half()
        network.is_half = True
    if pixels is not None:
        network.preprocess = Pixels(**pixels)
    return network


def _kind(model: nn.Module):
    origin = {c.__module__.split('.')[0] for c in type(model).__mro__}
    if hasattr(model, 'data_preprocessor'):
        if 'mmdet' in origin:
            from .detection import build_detector

            return build_detector
        if 'mmpretrain' in origin and hasattr(model, 'extract_feat'):
            return Classifier
        if 'mmseg' in origin:
            return Segmentor
        raise Refusal(f'{type(model).__name__} is no model that is exported')
    return Backbone
