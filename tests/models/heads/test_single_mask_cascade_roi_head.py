"""One mask head in a cascade, beside mmdet's head with three of them."""

import copy

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData

import mmctx  # noqa: F401

pytest.importorskip('mmdet')
pytest.importorskip('mmcv.ops')

from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmdet.utils import register_all_modules

from mmctx.models.heads.single_mask_cascade_roi_head import ScaledGradient

C, SIDE, STAGES = 4, 64, 3


def extractor(size):
    return dict(
        type='SingleRoIExtractor',
        roi_layer=dict(type='RoIAlign', output_size=size, sampling_ratio=0),
        out_channels=C,
        featmap_strides=[4, 8],
        finest_scale=16,
    )


def training(threshold):
    return dict(
        assigner=dict(
            type='MaxIoUAssigner',
            pos_iou_thr=threshold,
            neg_iou_thr=threshold,
            min_pos_iou=threshold,
            match_low_quality=False,
        ),
        sampler=dict(
            type='RandomSampler',
            num=64,
            pos_fraction=0.5,
            add_gt_as_proposals=True,
        ),
        mask_size=8,
        pos_weight=-1,
    )


def build(kind='SingleMaskCascadeRoIHead', **changes):
    box_head = dict(
        type='Shared2FCBBoxHead',
        in_channels=C,
        fc_out_channels=8,
        roi_feat_size=3,
        num_classes=2,
        reg_class_agnostic=True,
        reg_decoded_bbox=False,
        loss_bbox=dict(type='L1Loss'),
    )
    config = dict(
        type=kind,
        num_stages=STAGES,
        stage_loss_weights=[1] * STAGES,
        bbox_roi_extractor=extractor(3),
        bbox_head=[copy.deepcopy(box_head) for _ in range(STAGES)],
        mask_roi_extractor=extractor(4),
        mask_head=dict(
            type='FCNMaskHead',
            num_convs=1,
            in_channels=C,
            conv_out_channels=C,
            num_classes=2,
        ),
        train_cfg=[training(threshold) for threshold in (0.5, 0.6, 0.7)],
        test_cfg=dict(
            score_thr=0.05,
            nms=dict(type='nms', iou_threshold=0.5),
            max_per_img=5,
            mask_thr_binary=0.5,
        ),
    )
    config.update(changes)
    with DefaultScope.overwrite_default_scope('mmdet'):
        register_all_modules(init_default_scope=False)
        torch.manual_seed(0)
        head = MODELS.build(ConfigDict(config))
    for p in head.parameters():
        torch.nn.init.normal_(p, std=0.5)
    return head


def twin(head):
    """mmdet's head of the same weights; its three mask heads are alike."""
    other = build('CascadeRoIHead')
    state = head.state_dict()
    for key in list(state):
        if key.startswith('mask_head.'):
            value = state.pop(key)
            for stage in range(STAGES):
                state[key.replace('.', f'.{stage}.', 1)] = value
    other.load_state_dict(state)
    return other


def boxes(*rows):
    return torch.tensor(rows, dtype=torch.float)


def batch():
    """Feature maps, proposals and samples of two images."""
    torch.manual_seed(1)
    maps = [torch.randn(2, C, SIDE // s, SIDE // s) for s in (4, 8)]
    objects = [boxes([8, 8, 40, 40], [30, 4, 60, 30]), boxes([5, 20, 50, 60])]
    proposals, samples = [], []
    for truth in objects:
        mask = torch.zeros(len(truth), SIDE, SIDE).numpy()
        for i, (left, top, right, bottom) in enumerate(truth.int().tolist()):
            mask[i, top:bottom, left:right] = 1
        instances = InstanceData(
            bboxes=truth,
            labels=torch.arange(len(truth)),
            masks=BitmapMasks(mask.astype('uint8'), SIDE, SIDE),
        )
        sample = DetDataSample(
            gt_instances=instances,
            metainfo=dict(
                img_shape=(SIDE, SIDE),
                ori_shape=(SIDE, SIDE),
                scale_factor=(1, 1),
            ),
        )
        samples.append(sample)
        near = (truth + torch.randn(6, *truth.shape) * 3).flatten(0, 1)
        far = boxes([0, 0, 12, 12], [44, 44, 64, 64])
        proposals.append(
            InstanceData(bboxes=torch.cat([near, far]).clamp(0, SIDE))
        )
    return maps, proposals, samples


def losses(head):
    """Losses by name, and the feature maps that they depend on."""
    maps, proposals, samples = batch()
    maps = [level.double().requires_grad_() for level in maps]
    for instances in (*proposals, *(s.gt_instances for s in samples)):
        instances.bboxes = instances.bboxes.double()
    torch.manual_seed(2)
    return head.double().loss(maps, proposals, samples), maps


def box_loss(values):
    return sum(v for k, v in values.items() if 'loss' in k and 'mask' not in k)


def inputs_of(module):
    """What reaches a module as its last argument, call by call."""
    calls = []
    module.register_forward_pre_hook(lambda _, args: calls.append(args[-1]))
    return calls


def test_one_mask_loss():
    values, _ = losses(build())
    boxes = ('loss_cls', 'loss_bbox', 'acc')
    assert set(values) == {
        's0.loss_mask',
        *(f's{stage}.{name}' for stage in range(STAGES) for name in boxes),
    }
    assert all(torch.isfinite(value).all() for value in values.values())


def test_mask_head_learns_from_the_proposals_of_the_first_stage():
    head = build()
    masked = inputs_of(head.mask_roi_extractor)
    first, second = map(inputs_of, head.bbox_roi_extractor[:2])
    losses(head)
    (rois,) = masked
    rows = {tuple(row) for row in rois.tolist()}
    assert len(rows) > 3
    assert rows < {tuple(row) for row in first[0].tolist()}
    # What both stages have is the ground truth, which each of them adds.
    assert len(rows & {tuple(row) for row in second[0].tolist()}) == 3


def test_gradient_into_the_feature_maps_is_the_mean_of_the_stages():
    """mmdet's is the sum; box heads, and the mask head, learn as there."""
    head = build()
    stock = twin(head)
    (values, maps), (stock_values, stock_maps) = losses(head), losses(stock)
    for key in values:
        torch.testing.assert_close(values[key], stock_values[key])
    grads, stock_grads = (
        torch.autograd.grad(
            box_loss(v), [*m, *h.bbox_head.parameters()], retain_graph=True
        )
        for v, m, h in (
            (values, maps, head),
            (stock_values, stock_maps, stock),
        )
    )
    assert all(grad.any() for grad in grads[:2])
    for grad, stock_grad in zip(grads[:2], stock_grads[:2]):
        torch.testing.assert_close(grad, stock_grad / STAGES)
    torch.testing.assert_close(grads[2:], stock_grads[2:])
    masks = torch.autograd.grad(values['s0.loss_mask'], maps)
    stock_masks = torch.autograd.grad(stock_values['s0.loss_mask'], stock_maps)
    torch.testing.assert_close(masks, stock_masks)


@pytest.mark.parametrize('rescale', [False, True])
def test_predicts_the_masks_that_three_equal_heads_average(rescale):
    head = build().eval()
    torch.nn.init.zeros_(head.mask_head.conv_logits.bias)
    maps, proposals, samples = batch()
    calls = inputs_of(head.mask_roi_extractor)
    with torch.no_grad():
        results, expected = (
            h.predict(maps, copy.deepcopy(proposals), samples, rescale=rescale)
            for h in (head, twin(head).eval())
        )
    assert len(calls) == 1
    assert sum(map(len, results)) > 1
    for result, other in zip(results, expected):
        assert result.masks.any() and not result.masks.all()
        for key in ('bboxes', 'scores', 'labels', 'masks'):
            torch.testing.assert_close(result[key], other[key])


def test_no_proposals_no_masks():
    head = build().eval()
    maps, _, samples = batch()
    none = [InstanceData(bboxes=boxes().view(0, 4)) for _ in samples]
    for result in head.predict(maps, none, samples):
        assert result.masks.shape == (0, SIDE, SIDE)


def test_raw_outputs():
    head = build().eval()
    scores, deltas, masks = head(*batch())
    other_scores, other_deltas, other_masks = twin(head).eval()(*batch())
    torch.testing.assert_close(scores, other_scores)
    torch.testing.assert_close(deltas, other_deltas)
    for logits, averaged in zip(masks, other_masks):
        torch.testing.assert_close(logits.sigmoid(), averaged)


def test_boxes_alone():
    head = build(mask_head=None, mask_roi_extractor=None)
    values, _ = losses(head)
    assert not any('mask' in key for key in values)
    head = head.float().eval()
    assert len(head(*batch())) == 2
    assert all('masks' not in result for result in head.predict(*batch()))


def test_mask_input_is_cropped_as_the_first_box_head_crops():
    head = build(
        mask_roi_extractor=None,
        train_cfg=[dict(training(0.5), mask_size=6)] * STAGES,
    )
    assert head.mask_roi_extractor is head.bbox_roi_extractor[0]
    assert 's0.loss_mask' in losses(head)[0]


def test_a_list_of_mask_heads_is_refused():
    with pytest.raises(TypeError, match='one mask head .* got 3 configs'):
        build(mask_head=[dict(type='FCNMaskHead')] * STAGES)


def test_scaled_gradient_has_a_gradient():
    x = torch.randn(3, dtype=torch.double, requires_grad=True)

    def scaled(x):
        return ScaledGradient.apply(x.sin(), 0.25)

    (first,) = torch.autograd.grad(scaled(x).sum(), x, create_graph=True)
    torch.testing.assert_close(first, x.cos() / 4)
    (second,) = torch.autograd.grad(first.sum(), x)
    torch.testing.assert_close(second, -x.sin() / 4)
