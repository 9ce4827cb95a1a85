"""Detectors from mmdet with boxes, scores, labels and NMS in the graph.

mmdet keeps as many boxes as there are; a graph has a fixed number, padded by
boxes of score 0. So the steps after the heads are written here once more, by
operators that every exporter knows; the networks, their priors and box coders
are mmdet's own.
"""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, Optional

import torch
import torch.nn.functional as F
import torchvision
from mmcv.ops import MultiScaleDeformableAttention, RoIAlign
from mmdet.models.dense_heads import RPNHead
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from mmdet.models.dense_heads.detr_head import DETRHead
from mmdet.models.detectors import DETR, DeformableDETR, TwoStageDetector
from mmdet.models.roi_heads import CascadeRoIHead, StandardRoIHead
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.models.task_modules.coders import (
    DeltaXYWHBBoxCoder,
    DistancePointBBoxCoder,
)
from torch import Tensor, nn

from mmctx.models.detectors.smca_detr import SMCADETR
from mmctx.models.heads.single_mask_cascade_roi_head import (
    SingleMaskCascadeRoIHead,
)

from .network import Network, Refusal, own
from .pooling import length

#: Score of what is no detection.
NONE = -1.0
#: Of the groups that NMS moves apart.
COLUMNS = 16
NMS_KEYS = {'type', 'iou_threshold', 'class_agnostic', 'split_thr'}


def _top(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The highest of scores (N, K), filled where K is less, and their places.

    What is no detection has place 0.
    """
    scores, index = F.pad(scores, (0, count), value=NONE).topk(count)
    return scores, index * (scores > NONE)


def _take(x: Tensor, index: Tensor) -> Tensor:
    """Rows (N, I, D) of x (N, K, D) at places (N, I)."""
    return x.gather(1, index.unsqueeze(2).expand(-1, -1, x.shape[2]))


def _larger(boxes: Tensor, scores: Tensor, side: float) -> Tensor:
    """Scores of boxes whose sides exceed a length."""
    width, height = (boxes[..., 2:] - boxes[..., :2]).unbind(-1)
    return torch.where((width > side) & (height > side), scores, NONE)


def suppress(
    boxes: Tensor, scores: Tensor, groups: Tensor, nms: Optional[dict]
) -> Tensor:
    """Scores (N, K), lowered where a better box of the group covers the box.

    One call for all images: groups, and images, are moved apart, in rows and
    columns, since far from zero there are fewer numbers.
    """
    if nms is None:
        return scores
    if nms.get('class_agnostic'):
        groups = torch.zeros_like(groups)
    images = torch.arange(scores.shape[0], device=scores.device)
    groups = groups + images.unsqueeze(1) * (groups.max() + 1)
    index = (scores.flatten() > NONE).nonzero().squeeze(1)
    cells = torch.stack((groups % COLUMNS, groups // COLUMNS), 2)
    apart = boxes + cells.repeat(1, 1, 2) * (boxes.max() + 1)
    apart = apart.flatten(0, 1)
    kept = torchvision.ops.nms(
        apart[index], scores.flatten()[index], nms['iou_threshold']
    )
    mark = torch.zeros_like(scores.flatten()).index_fill(0, index[kept], 1.0)
    return torch.where(mark.view_as(scores) > 0, scores, NONE)


def _detections(
    boxes: Tensor, scores: Tensor, labels: Tensor, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The best boxes, their scores and labels; zeros and label -1 behind."""
    scores, index = _top(scores, count)
    valid = scores > NONE
    boxes = _take(boxes, index) * valid.unsqueeze(2)
    labels = torch.where(valid, labels.gather(1, index), -1)
    return boxes, scores * valid, labels


def _decode(
    coder: Any, priors: Tensor, deltas: Tensor, size: Tensor
) -> Tensor:
    """Boxes (N, K, 4) of priors (N, K, D) and predictions (N, K, 4)."""
    boxes = coder.decode(priors.flatten(0, 1), deltas.flatten(0, 1))
    boxes = boxes.unflatten(0, (deltas.shape[0], -1))
    if coder.clip_border:
        boxes = boxes.clamp_min(0).minimum(size)
    return boxes


def _check_nms(nms: Optional[dict]) -> None:
    if nms and (nms.get('type') != 'nms' or set(nms) - NMS_KEYS):
        raise Refusal(f'NMS with {dict(nms)}: only type="nms" is exported')


def _check_coder(coder: Any) -> None:
    own(coder, DeltaXYWHBBoxCoder, DistancePointBBoxCoder)


class DenseHead(nn.Module):
    """A head that predicts at every place of a feature pyramid, and NMS.

    Args:
        head (nn.Module): A dense head of mmdet with the post-processing of
            ``BaseDenseHead`` or ``RPNHead``.
        cfg (dict): Its ``test_cfg``.
    """

    def __init__(self, head: nn.Module, cfg: dict) -> None:
        super().__init__()
        self.is_rpn = isinstance(head, RPNHead)
        post_processing = RPNHead if self.is_rpn else BaseDenseHead
        for name in ('_predict_by_feat_single', '_bbox_post_process'):
            if getattr(type(head), name) is not getattr(post_processing, name):
                raise Refusal(f'{type(head).__name__} has its own {name}')
        if type(head).predict_by_feat is not BaseDenseHead.predict_by_feat:
            raise Refusal(f'{type(head).__name__} has its own predict_by_feat')
        if getattr(head.loss_cls, 'custom_cls_channels', False):
            raise Refusal('class scores with an activation of the loss')
        _check_coder(head.bbox_coder)
        _check_nms(cfg.get('nms'))
        self.head = head
        self.cfg = cfg

    def forward(
        self, feats: Sequence[Tensor], size: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (N, D, 4), scores and labels (N, D); labels of RPN are 0."""
        levels = [[x.float() for x in part] for part in self.head(feats)]
        candidates = zip(*self._candidates(levels))
        deltas, priors, scores, labels = (torch.cat(c, 1) for c in candidates)
        boxes = _decode(self.head.bbox_coder, priors, deltas, size)
        smallest = self.cfg.get('min_bbox_size', -1)
        if smallest >= 0:
            scores = _larger(boxes, scores, smallest)
        scores = suppress(boxes, scores, labels, self.cfg.get('nms'))
        return _detections(boxes, scores, labels, self.cfg['max_per_img'])

    def _candidates(self, levels: list):
        head, cfg = self.head, self.cfg
        all_priors = head.prior_generator.grid_priors(
            [x.shape[-2:] for x in levels[0]],
            dtype=levels[0][0].dtype,
            device=levels[0][0].device,
        )
        for level, (priors, *parts) in enumerate(zip(all_priors, *levels)):
            logits, deltas, *factors = (
                part.permute(0, 2, 3, 1).reshape(part.shape[0], -1, channels)
                for part, channels in zip(parts, (head.cls_out_channels, 4, 1))
            )
            if head.use_sigmoid_cls:
                scores = logits.sigmoid()
            else:
                scores = logits.softmax(2)[..., :-1]
            classes = scores.shape[2]
            scores = scores.flatten(1)
            threshold = NONE if self.is_rpn else cfg.get('score_thr', 0)
            scores = torch.where(scores > threshold, scores, NONE)
            if cfg.get('nms_pre', -1) > 0:
                scores, index = _top(scores, cfg['nms_pre'])
            else:
                index = torch.ones_like(scores).cumsum(1).long() - 1
            place = index // classes
            for factor in factors:
                factor = factor.squeeze(2).sigmoid().gather(1, place)
                scores = torch.where(scores > NONE, scores * factor, NONE)
            labels = torch.full_like(index, level)
            if not self.is_rpn:
                labels = index % classes
            yield _take(deltas, place), priors[place], scores, labels


class RoIFeatures(nn.Module):
    """RoIAlign on the level of a feature pyramid that suits each box.

    Args:
        extractor (nn.Module): mmdet's ``SingleRoIExtractor``.
    """

    def __init__(self, extractor: nn.Module) -> None:
        super().__init__()
        own(extractor, SingleRoIExtractor)
        for layer in extractor.roi_layers:
            own(layer, RoIAlign)
            if layer.pool_mode != 'avg':
                raise Refusal('RoIAlign with pool_mode="max"')
        self.extractor = extractor

    def forward(self, feats: Sequence[Tensor], boxes: Tensor) -> Tensor:
        """Boxes (N, D, 4) of N images to (N * D, C, h, w)."""
        images = torch.ones_like(boxes[..., :1]).cumsum(0) - 1
        rois = torch.cat((images, boxes), 2).flatten(0, 1)
        layers = self.extractor.roi_layers
        feats = [x.float() for x in feats[: len(layers)]]
        levels = self.extractor.map_roi_levels(rois, len(layers))
        shape = self.extractor.out_channels, *layers[0].output_size
        out = rois.new_zeros(rois.shape[0], *shape)
        for i, (x, layer) in enumerate(zip(feats, layers)):
            index = (levels == i).nonzero().squeeze(1)
            part = torchvision.ops.roi_align(
                x,
                rois[index],
                layer.output_size,
                layer.spatial_scale,
                layer.sampling_ratio,
                layer.aligned,
            )
            out = out.index_put((index,), part)
        return out


class Detector(Network):
    """What detectors share: padding, and the names of what they return.

    Args:
        detector (nn.Module): A detector of mmdet.
    """

    task = 'detection'
    outputs = ('boxes', 'scores', 'labels')

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector
        preprocessor = detector.data_preprocessor
        self.divisor = getattr(preprocessor, 'pad_size_divisor', 1)

    def image_size(self, x: Tensor) -> Tensor:
        """Width, height, width, height."""
        return torch.stack((length(x, 3), length(x, 2)) * 2)

    def extract(self, x: Tensor) -> tuple[Tensor, ...]:
        """Feature maps of the neck."""
        d = self.divisor
        bottom, right = ((s + d - 1) // d * d - s for s in x.shape[2:])
        if d > 1:
            x = F.pad(x, (0, right, 0, bottom))
        return self.detector.extract_feat(self.cast(x))


class OneStage(Detector):
    """RetinaNet, FCOS, ATSS, RTMDet and what else has such a head."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__(detector)
        self.head = DenseHead(detector.bbox_head, detector.test_cfg)

    def run(self, x: Tensor) -> tuple[Tensor, ...]:
        """Images to boxes, scores and labels."""
        return self.head(self.extract(x), self.image_size(x))


class TwoStage(Detector):
    """Faster, Mask, Cascade and Cascade Mask R-CNN."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__(detector)
        head = detector.roi_head
        own(head, StandardRoIHead, CascadeRoIHead, SingleMaskCascadeRoIHead)
        if head.with_shared_head:
            raise Refusal('RoI heads with a shared head')
        self.rpn = DenseHead(detector.rpn_head, detector.rpn_head.test_cfg)
        self.cfg = detector.test_cfg.rcnn
        _check_nms(self.cfg.get('nms'))
        self.box_heads = _list(head.bbox_head)
        self.box_features = _features(head.bbox_roi_extractor)
        for box_head in self.box_heads:
            _check_coder(box_head.bbox_coder)
            if box_head.custom_activation or not box_head.with_reg:
                raise Refusal(f'{type(box_head).__name__} without boxes or '
                              'with an activation of its loss')  # fmt: skip
            if not isinstance(box_head, BBoxHead):
                raise Refusal(type(box_head).__name__)
        if head.with_mask:
            self.outputs = (*self.outputs, 'masks')
            self.task = 'instance segmentation'
            self.mask_heads = _list(head.mask_head)
            self.mask_features = _features(head.mask_roi_extractor)
            for mask_head in self.mask_heads:
                own(mask_head, FCNMaskHead)

    def run(self, x: Tensor) -> tuple[Tensor, ...]:
        """Images to boxes, scores, labels and masks in their boxes."""
        feats, size = self.extract(x), self.image_size(x)
        boxes, scores, _ = self.rpn(feats, size)
        detections = self._classify(feats, boxes, scores, size)
        if 'masks' not in self.outputs:
            return detections
        return *detections, self._masks(feats, *detections)

    def _classify(
        self, feats: tuple, boxes: Tensor, objectness: Tensor, size: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        n, count = boxes.shape[:2]
        logits: Any = 0
        last = len(self.box_heads) - 1
        for i, head in enumerate(self.box_heads):
            parts = self.cast(self.box_features[i](feats, boxes))
            stage_logits, deltas = (x.float() for x in head(parts))
            logits = logits + stage_logits
            deltas = deltas.unflatten(1, (-1, 4))
            classes = deltas.shape[1]
            if i < last and classes > 1:
                best = stage_logits[:, :-1].argmax(1, keepdim=True)
                deltas, classes = _take(deltas, best), 1
            priors = boxes.flatten(0, 1)[:, None].expand(-1, classes, -1)
            deltas = deltas.reshape(n, count * classes, 4)
            priors = priors.reshape(n, count * classes, 4)
            boxes = _decode(head.bbox_coder, priors, deltas, size)
        scores = (logits / len(self.box_heads)).softmax(1)[:, :-1]
        labels = torch.ones_like(scores).cumsum(1).long() - 1
        scores, labels = (x.unflatten(0, (n, count)) for x in (scores, labels))
        valid = (scores > self.cfg['score_thr']) & (objectness > 0)[..., None]
        scores = torch.where(valid, scores, NONE).flatten(1)
        labels = labels.flatten(1)
        boxes = boxes.unflatten(1, (count, -1))
        boxes = boxes.expand(-1, -1, valid.shape[2], -1).flatten(1, 2)
        scores = suppress(boxes, scores, labels, self.cfg.get('nms'))
        return _detections(boxes, scores, labels, self.cfg['max_per_img'])

    def _masks(
        self, feats: tuple, boxes: Tensor, scores: Tensor, labels: Tensor
    ) -> Tensor:
        """Probabilities (N, D, h, w) in the boxes."""
        total: Any = 0
        index = labels.clamp_min(0).flatten()[:, None, None, None]
        for extract, head in zip(self.mask_features, self.mask_heads):
            masks = head(self.cast(extract(feats, boxes))).float().sigmoid()
            if masks.shape[1] > 1:
                masks = masks.gather(1, index.expand(-1, -1, *masks.shape[2:]))
            total = total + masks.squeeze(1)
        masks = (total / len(self.mask_heads)).unflatten(0, labels.shape)
        return masks * (scores > 0)[..., None, None]


def _list(heads: Any) -> nn.ModuleList:
    return (
        heads if isinstance(heads, nn.ModuleList) else nn.ModuleList([heads])
    )


def _features(extractors: Any) -> nn.ModuleList:
    return nn.ModuleList(map(RoIFeatures, _list(extractors)))


class Transformer(Detector):
    """DETR, Deformable DETR and SMCA-DETR, on images without padding."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__(detector)
        head = detector.bbox_head
        if type(head)._predict_by_feat_single is not (
            DETRHead._predict_by_feat_single
        ):
            raise Refusal(f'{type(head).__name__} has its own boxes')
        if self.divisor > 1:
            raise Refusal(
                'a DETR with pad_size_divisor > 1: set '
                'model.data_preprocessor.pad_size_divisor=1'
            )
        self.count = detector.test_cfg.get('max_per_img', detector.num_queries)
        if isinstance(detector, DeformableDETR):
            if detector.as_two_stage:
                raise Refusal('a two-stage Deformable DETR')
            detector.encoder.get_encoder_reference_points = reference_points
            for module in detector.modules():
                if isinstance(module, MultiScaleDeformableAttention):
                    module.forward = DeformableAttention(module)

    def half(self) -> 'Transformer':
        """Backbone and neck alone: positions need float32."""
        for part in (self.detector.backbone, self.detector.neck):
            part.half()
        return self

    def run(self, x: Tensor) -> tuple[Tensor, ...]:
        """Images to boxes, scores and labels."""
        detector, head = self.detector, self.detector.bbox_head
        # Which mmdet views as sequences.
        feats = tuple(f.float().contiguous() for f in self.extract(x))
        encoder_inputs, decoder_inputs = self._inputs(feats, x)
        encoded = detector.forward_encoder(**encoder_inputs)
        queries, head_inputs = detector.pre_decoder(**encoded)
        decoder_inputs.update(queries)
        head_inputs.update(detector.forward_decoder(**decoder_inputs))
        logits, boxes = (layers[-1].float() for layers in head(**head_inputs))
        if head.loss_cls.use_sigmoid:
            scores, index = logits.sigmoid().flatten(1).topk(self.count)
            labels, index = index % head.num_classes, index // head.num_classes
        else:
            scores, labels = logits.softmax(2)[..., :-1].max(2)
            scores, index = scores.topk(self.count)
            labels = labels.gather(1, index)
        centre, side = _take(boxes, index).chunk(2, 2)
        boxes = torch.cat((centre - side / 2, centre + side / 2), 2)
        size = self.image_size(x)
        return (boxes * size).clamp_min(0).minimum(size), scores, labels

    def _inputs(self, feats: tuple, x: Tensor) -> tuple[dict, dict]:
        detector = self.detector
        if isinstance(detector, SMCADETR):
            size = torch.stack((length(x, 3), length(x, 2)))
            return detector.transformer_inputs(
                feats[-1], size.expand(x.shape[0], 2)
            )
        if not isinstance(detector, DeformableDETR):
            size = tuple(x.shape[2:])
            sample = SimpleNamespace(batch_input_shape=size, img_shape=size)
            return detector.pre_transformer(feats, [sample])
        codes = [
            (detector.positional_encoding(None, input=level) + code).flatten(2)
            for level, code in zip(
                feats, detector.level_embed[..., None, None].unbind()
            )
        ]
        tokens = [level.flatten(2) for level in feats]
        shared = dict(
            spatial_shapes=[level.shape[2:] for level in feats],
            level_start_index=None,
            valid_ratios=feats[0].new_ones(x.shape[0], len(feats), 2),
        )
        return (
            dict(
                feat=torch.cat(tokens, 2).transpose(1, 2),
                feat_mask=None,
                feat_pos=torch.cat(codes, 2).transpose(1, 2),
                **shared,
            ),
            dict(memory_mask=None, **shared),
        )


def reference_points(
    spatial_shapes: Sequence, valid_ratios: Tensor, device: Any
) -> Tensor:
    """Centres of the cells of all levels, (N, L, levels, 2) as x, y in 0..1.

    For images without padding: all valid ratios are 1.
    """
    points = []
    for height, width in spatial_shapes:
        y, x = (
            (torch.arange(side, device=device) + 0.5) / side
            for side in (height, width)
        )
        x, y = x.expand(height, width), y.unsqueeze(1).expand(height, width)
        points.append(torch.stack((x, y), 2).flatten(0, 1))
    return torch.cat(points)[None, :, None] * valid_ratios[:, None]


class DeformableAttention:
    """Multi-scale deformable attention by ``grid_sample``.

    As mmcv's on a CPU; but sizes are numbers, not a tensor of which Python
    would read them while an exporter records.

    Args:
        layer (nn.Module): mmcv's ``MultiScaleDeformableAttention``, not a
            part of this object.
    """

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer

    def __call__(
        self,
        query: Tensor,
        key: Optional[Tensor] = None,
        value: Optional[Tensor] = None,
        identity: Optional[Tensor] = None,
        query_pos: Optional[Tensor] = None,
        reference_points: Optional[Tensor] = None,
        spatial_shapes: Sequence = (),
        **kwargs: Any,
    ) -> Tensor:
        """(N, Q, C) and values (N, L, C) to (N, Q, C)."""
        layer = self.layer
        value = query if value is None else value
        identity = query if identity is None else identity
        query = query if query_pos is None else query + query_pos
        heads = layer.num_heads
        shape = heads, layer.num_levels, layer.num_points
        values = layer.value_proj(value).unflatten(2, (heads, -1))
        values = values.permute(0, 2, 3, 1).flatten(0, 1)
        weights = layer.attention_weights(query).unflatten(2, (heads, -1))
        weights = weights.softmax(3).transpose(1, 2).flatten(0, 1)
        offsets = layer.sampling_offsets(query).unflatten(2, (*shape, 2))
        points = reference_points[:, :, None, :, None]
        samples, start = [], 0
        for i, (height, width) in enumerate(spatial_shapes):
            if points.shape[-1] == 2:
                size = torch.stack(
                    [x.new_ones(side).sum() for side, x in
                     ((width, offsets), (height, offsets))]
                )  # fmt: skip
                grid = points[:, :, :, i] + offsets[:, :, :, i] / size
            else:
                box = points[:, :, :, i]
                step = offsets[:, :, :, i] / layer.num_points
                grid = box[..., :2] + step * box[..., 2:] * 0.5
            grid = (2 * grid - 1).transpose(1, 2).flatten(0, 1)
            level = values.narrow(2, start, height * width)
            start = start + height * width
            level = level.unflatten(2, (height, width))
            samples.append(F.grid_sample(level, grid, align_corners=False))
        out = (torch.cat(samples, 3) * weights.unsqueeze(1)).sum(3)
        out = out.unflatten(0, (-1, heads)).flatten(1, 2).transpose(1, 2)
        return layer.output_proj(out) + identity


def build_detector(detector: nn.Module) -> Detector:
    """The detector as a :class:`Network`.

    Raises:
        Refusal: It, or a part of it, cannot be exported.
    """
    if isinstance(detector, TwoStageDetector):
        return TwoStage(detector)
    if type(detector) in (DETR, DeformableDETR, SMCADETR):
        return Transformer(detector)
    if isinstance(getattr(detector, 'bbox_head', None), BaseDenseHead):
        return OneStage(detector)
    raise Refusal(
        f'{type(detector).__name__}: detectors with boxes from a dense head '
        'or from two stages, DETR, Deformable DETR and SMCA-DETR are exported'
    )
